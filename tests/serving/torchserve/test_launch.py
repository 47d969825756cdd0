"""Ports are checked before a start, and a restarted server loads the last snapshot's models under the current settings."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from pathlib import Path

import pytest

from serving.settings import PORTS, ServerSettings
from serving.torchserve.launch import (
    SNAPSHOTS_KEPT,
    ServerStartError,
    check_ports,
    delete_old_snapshots,
    environment,
    last_snapshot,
    render_properties,
)


@pytest.fixture
def listener() -> socket.socket:
    return socket.create_server(("127.0.0.1", 0))


def on_port_of(listener: socket.socket, home: Path) -> ServerSettings:
    return ServerSettings(server_home=home, **dict.fromkeys(PORTS, listener.getsockname()[1]))


def test_a_port_that_is_released_in_time_is_waited_for(listener: socket.socket, tmp_path: Path) -> None:
    settings = on_port_of(listener, tmp_path)
    started = time.monotonic()
    threading.Timer(0.3, listener.close).start()
    check_ports(settings, wait_seconds=60)
    assert time.monotonic() - started >= 0.3


def test_a_taken_port_is_named_at_once_where_nothing_is_waited_for(
    listener: socket.socket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "sleep", lambda seconds: pytest.fail("it waits"))
    with listener, pytest.raises(ServerStartError, match=r"TIDEGATE_INFERENCE_PORT is \d+, which cannot be used"):
        check_ports(on_port_of(listener, tmp_path))


def test_java_and_its_logs_accept_any_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LC_ALL", "C")
    kept = environment(Path("/srv/100% réal/logs"), tmp_path)

    assert kept["LC_ALL"] == "C.UTF-8"
    assert (kept["LOG_LOCATION"], kept["LOG_PATTERN"]) == ("/srv/100% réal/logs", "/srv/100%% réal/logs")


def test_nothing_that_the_server_does_not_need_reaches_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        "TIDEGATE_GATE_KEY", "TIDEGATE_EDGE_USER_SECRET", "MLFLOW_TRACKING_URI", "AWS_SECRET_ACCESS_KEY", "GITHUB_TOKEN",
        "TS_CONFIG_FILE", "PYTHONPATH", "JAVA_TOOL_OPTIONS", "HTTPS_PROXY", "ANYTHING_ELSE",
    ):  # fmt: skip
        monkeypatch.setenv(name, "planted-secret")
    monkeypatch.setenv("TIDEGATE_STORE", "redis://:its-own-password@cache/0")
    passed = environment(tmp_path, tmp_path)

    assert "planted-secret" not in passed.values()
    assert passed["TIDEGATE_STORE"] == "redis://:its-own-password@cache/0"
    assert passed["PATH"] == os.environ["PATH"]


def about(version: str, default: bool) -> dict:
    return {"defaultVersion": default, "marName": f"demo-{version}.mar", "minWorkers": 1}


def write_snapshot(folder: Path, stamp: str, models: dict, port: int = 8080) -> None:
    """As TorchServe writes one: a properties file with its JSON split over escaped lines."""
    text = json.dumps({"name": stamp, "modelCount": len(models), "models": models}, indent=2)
    escaped = text.replace("\n", "\\n\\\n").replace(":", "\\:")
    (folder / f"{stamp}-snapshot.cfg").write_text(
        f"inference_address=http\\://0.0.0.0\\:{port}\nmodel_snapshot={escaped}\n", encoding="utf-8"
    )


def restore(store: Path, snapshots: Path | None = None) -> dict | None:
    return last_snapshot(snapshots or store, store, set(store.glob("*.mar")))


@pytest.fixture
def store(tmp_path: Path) -> Path:
    for version in ("1.0", "2.0"):
        (tmp_path / f"demo-{version}.mar").touch()
    return tmp_path


def test_the_newest_snapshot_is_restored(store: Path) -> None:
    write_snapshot(store, "20260101", {"demo": {"1.0": about("1.0", True)}})
    both = {"demo": {"1.0": about("1.0", False), "2.0": about("2.0", True)}}
    write_snapshot(store, "20260102", both)
    assert restore(store)["models"] == both


def test_a_truncated_snapshot_is_skipped(store: Path) -> None:
    write_snapshot(store, "20260101", {"demo": {"1.0": about("1.0", True)}})
    (store / "20260102-snapshot.cfg").write_text('model_snapshot={"models"\\: {"demo"\\: ', encoding="utf-8")
    assert list(restore(store)["models"]["demo"]) == ["1.0"]


def test_a_version_without_its_archive_is_left_out_and_another_becomes_default(store: Path) -> None:
    models = {"demo": {"1.0": about("1.0", False), "2.0": about("2.0", False), "3.0": about("3.0", True)}}
    write_snapshot(store, "20260101", models)
    restored = restore(store)["models"]["demo"]
    assert {version: about["defaultVersion"] for version, about in restored.items()} == {
        "1.0": False,
        "2.0": True,
    }


def test_an_archive_that_may_not_be_loaded_is_left_out(store: Path) -> None:
    write_snapshot(store, "20260101", {"demo": {"1.0": about("1.0", False), "2.0": about("2.0", True)}})
    assert list(last_snapshot(store, store, {store / "demo-1.0.mar"})["models"]["demo"]) == ["1.0"]
    assert last_snapshot(store, store, set()) is None


def test_nothing_is_restored_where_no_archive_is_left(store: Path, tmp_path: Path) -> None:
    assert restore(store, tmp_path / "absent") is None
    write_snapshot(store, "20260101", {"gone": {"1.0": about("9.0", True)}})
    assert restore(store) is None


def test_addresses_come_from_the_settings_not_from_the_snapshot(store: Path) -> None:
    write_snapshot(store, "20260101", {"demo": {"1.0": about("1.0", True)}}, port=1)
    settings = ServerSettings(server_home=store / "home", inference_port=18080)
    lines = dict(line.split("=", 1) for line in render_properties(settings, restore(store)).splitlines())
    assert lines["inference_address"] == "http://127.0.0.1:18080"
    assert json.loads(lines["model_snapshot"])["models"]["demo"]["1.0"]["marName"] == "demo-1.0.mar"


def test_the_server_listens_on_loopback_and_requires_tokens(tmp_path: Path) -> None:
    text = render_properties(ServerSettings(server_home=tmp_path), None)
    assert "0.0.0.0" not in text
    assert "disable_token_authorization=false" in text
    assert f"allowed_urls=file://{tmp_path}/models/.*" in text.replace("\\\\", "").replace("\\", "")
    assert "model_snapshot" not in text


def test_old_snapshots_are_deleted(tmp_path: Path) -> None:
    for day in range(10, 30):
        write_snapshot(tmp_path, f"202601{day}", {})
    delete_old_snapshots(tmp_path)
    kept = sorted(path.name for path in tmp_path.iterdir())
    assert kept == [f"202601{day}-snapshot.cfg" for day in range(30 - SNAPSHOTS_KEPT, 30)]
