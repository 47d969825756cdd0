"""One service of a name holds a folder, and its processes share their counts in an empty one."""

from __future__ import annotations

import shutil
import socket
from dataclasses import dataclass
from pathlib import Path

import pytest

from benchmarks._load import free_ports
from config.command import UserError
from web import service
from web.service import only_one, share_counts


@dataclass(frozen=True)
class Settings:
    """What every service's settings hold."""

    home: Path
    port: int
    metrics_port: int
    host: str = "127.0.0.1"
    metrics_host: str = "127.0.0.1"
    workers: int = 1


def variable(field: str) -> str:
    return f"GATES_{field.upper()}"


def make_settings(home: Path) -> Settings:
    return Settings(home, *free_ports(2))


def test_a_second_service_of_the_same_name_is_refused_and_one_of_another_name_is_not(tmp_path: Path) -> None:
    with only_one("gates", make_settings(tmp_path), variable):
        with only_one("doors", make_settings(tmp_path), variable):
            pass
        with (
            pytest.raises(UserError, match=f"^GATES_HOME: another gates runs with {tmp_path}; give this one a folder"),
            only_one("gates", make_settings(tmp_path), variable),
        ):
            pass
    with only_one("gates", make_settings(tmp_path), variable):
        pass


@pytest.mark.parametrize("field", ["port", "metrics_port"])
def test_a_taken_port_is_named_by_its_variable_before_anything_is_written(tmp_path: Path, field: str) -> None:
    settings = make_settings(tmp_path / "home")
    port = getattr(settings, field)
    with (
        socket.create_server(("127.0.0.1", port)),
        pytest.raises(UserError, match=rf"^GATES_{field.upper()}: 127\.0\.0\.1:{port} cannot be used"),
        only_one("gates", settings, variable),
    ):
        pass
    assert not settings.home.exists()


def test_counts_of_processes_that_are_gone_are_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(service.SHARED_COUNTS, "")
    folder, other = share_counts("gates", tmp_path), share_counts("doors", tmp_path)
    try:
        assert folder != other
        (folder / "counter_1.db").write_text("old", encoding="utf-8")
        assert share_counts("gates", tmp_path) == folder
        assert list(folder.iterdir()) == []
    finally:
        shutil.rmtree(folder)
        shutil.rmtree(other)
