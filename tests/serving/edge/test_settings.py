"""The edge's settings come from the environment, and their errors name the variable."""

from __future__ import annotations

import os
import shutil
import socket
from contextlib import ExitStack
from pathlib import Path

import pytest

from benchmarks._load import free_ports
from config.validation import SettingsError
from serving.edge import serve, settings
from web import service


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("TIDEGATE_")]:
        monkeypatch.delenv(name)


def test_the_defaults_are_loopback_and_this_projects_own_server() -> None:
    loaded = settings.load()
    assert (loaded.host, loaded.metrics_host) == ("127.0.0.1", "127.0.0.1")
    assert loaded.upstream == "http://127.0.0.1:8080"
    assert loaded.token_file.name == "key_file.json"
    assert loaded.dataset == "demo"


def test_the_settings_of_torchserve_are_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIDEGATE_INFERENCE_PORT", "9999")
    assert settings.load().upstream == "http://127.0.0.1:9999"


def test_arms_keep_their_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIDEGATE_EDGE_EXPERIMENT", "e")
    monkeypatch.setenv("TIDEGATE_EDGE_ARMS", '{"b": {"share": 0.1, "version": "2.0"}, "a": {"share": 0.9}}')
    assert list(settings.load().arms) == ["b", "a"]


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("PORT", "70000", "TIDEGATE_EDGE_PORT is '70000'; "),
        ("DEADLINE_MS", "soon", "TIDEGATE_EDGE_DEADLINE_MS is 'soon'; "),
        ("UPSTREAM", "https://there/", "TIDEGATE_EDGE_UPSTREAM is 'https://there/'; "),
        ("CACHE", "memcached", "TIDEGATE_EDGE_CACHE is 'memcached'; "),
        ("ARMS", "{", "TIDEGATE_EDGE_ARMS is '{'; "),
        ("ARMS", '{"a": {"share": 0.5}}', r"TIDEGATE_EDGE_ARMS is .*; its shares sum to 0\.5; expected 1"),
        ("ARMS", '{"a": {"share": 2}}', r"TIDEGATE_EDGE_ARMS\.a\.share is 2; "),
        ("ARMS", '{"a": {"share": 1}}', "TIDEGATE_EDGE_ARMS is set and TIDEGATE_EDGE_EXPERIMENT is not"),
        ("RESERVE_MS", "300", "TIDEGATE_EDGE_RESERVE_MS is 300; expected less than TIDEGATE_EDGE_DEADLINE_MS, 300"),
    ],
)
def test_an_invalid_value_is_named(monkeypatch: pytest.MonkeyPatch, name: str, value: str, message: str) -> None:
    monkeypatch.setenv(f"TIDEGATE_EDGE_{name}", value)
    with pytest.raises(SettingsError, match=f"^{message}"):
        settings.load()


@pytest.mark.parametrize("shared", ["PORT", "METRICS_PORT", "HOME"])
def test_a_second_edge_fails_before_it_touches_anything_of_the_first(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, shared: str
) -> None:
    monkeypatch.setattr(service.uvicorn, "run", lambda *_, **__: pytest.fail("it started"))
    monkeypatch.setenv(service.SHARED_COUNTS, "")
    own, others = free_ports(2), free_ports(2)
    environment = {"HOME": str(tmp_path / "edge"), "PORT": str(own[0]), "METRICS_PORT": str(own[1])}
    for name, value in environment.items():
        monkeypatch.setenv(f"TIDEGATE_EDGE_{name}", value)
    first = settings.load()
    with service.only_one(serve.NAME, first, settings.variable), ExitStack() as listening:
        counts = service.share_counts(serve.NAME, first.home)
        listening.callback(shutil.rmtree, counts)
        (counts / "counter_1.db").write_text("of the first", encoding="utf-8")
        for port in own:
            listening.enter_context(socket.create_server(("127.0.0.1", port)))
        before = {path: path.stat().st_mtime_ns for folder in (tmp_path, counts) for path in folder.rglob("*")}
        for name, port in zip(("PORT", "METRICS_PORT"), others, strict=True):
            if name != shared:
                monkeypatch.setenv(f"TIDEGATE_EDGE_{name}", str(port))
        assert serve.main([]) == 2
        after = {path: path.stat().st_mtime_ns for folder in (tmp_path, counts) for path in folder.rglob("*")}
    (error,) = capsys.readouterr().err.splitlines()
    assert error.startswith(f"error: TIDEGATE_EDGE_{shared}: ")
    assert after == before


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("USER_SECRET", "short", "TIDEGATE_EDGE_USER_SECRET holds 5 characters"),
        ("PORT", None, "TIDEGATE_EDGE_PORT: 127.0.0.1:{taken} cannot be used (Address already in use"),
        ("METRICS_PORT", None, "TIDEGATE_EDGE_METRICS_PORT: 127.0.0.1:{taken} cannot be used (Address already in use"),
    ],
)
def test_an_edge_that_cannot_start_prints_the_reason_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path, name: str, value, message: str
) -> None:
    monkeypatch.setattr(service.uvicorn, "run", lambda *_, **__: pytest.fail("it started"))
    monkeypatch.setenv("TIDEGATE_EDGE_HOME", str(tmp_path))
    monkeypatch.setenv(service.SHARED_COUNTS, "")  # so that what main sets is taken back
    with socket.create_server(("127.0.0.1", 0)) as probe, socket.create_server(("127.0.0.1", 0)) as taken:
        free, port = probe.getsockname()[1], taken.getsockname()[1]
        probe.close()
        monkeypatch.setenv("TIDEGATE_EDGE_PORT", str(free))
        monkeypatch.setenv(f"TIDEGATE_EDGE_{name}", value or str(port))
        assert serve.main([]) == 2
    (error,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert error.removeprefix("error: ").startswith(message.format(taken=port))
