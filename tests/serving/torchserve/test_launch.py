"""Ports before a start: one that a killed server still holds is waited for, one that stays taken is named."""

from __future__ import annotations

import socket
import threading
import time
from pathlib import Path

import pytest

from serving.settings import PORTS, ServerSettings
from serving.torchserve.launch import ServerStartError, check_ports


@pytest.fixture
def holder() -> socket.socket:
    return socket.create_server(("127.0.0.1", 0))


def on(holder: socket.socket, home: Path) -> ServerSettings:
    return ServerSettings(server_home=home, **dict.fromkeys(PORTS, holder.getsockname()[1]))


def test_a_port_that_is_let_go_in_time_is_free(holder: socket.socket, tmp_path: Path) -> None:
    settings = on(holder, tmp_path)
    threading.Timer(0.3, holder.close).start()
    check_ports(settings, patience=10)


def test_a_port_that_stays_taken_is_named_at_once_where_nobody_was_killed(
    holder: socket.socket, tmp_path: Path
) -> None:
    begun = time.monotonic()
    with holder, pytest.raises(ServerStartError, match=r"TIDEGATE_INFERENCE_PORT is \d+, which cannot be used"):
        check_ports(on(holder, tmp_path))
    assert time.monotonic() - begun < 1
