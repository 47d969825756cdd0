"""The edge bounds its connections by its settings, and counts those that it closes."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
from fake_torchserve import FakeTorchServe
from running import Edge, Start, wait_until

from web.connections import (
    BUSY,
    IDLE,
    REFUSED,
    SHED,
    SLOW_REQUEST,
)

SMALL = b"GET /nothing HTTP/1.1\r\nHost: x\r\n\r\n"  # answered at once, with a 404
POST = "POST /v1/recommendations HTTP/1.1\r\nHost: x\r\nX-API-Key: {}\r\nContent-Length: {}\r\n\r\n"

Connect = Callable[[Edge], socket.socket]


@pytest.fixture
def connect() -> Iterator[Connect]:
    with ExitStack() as stack:

        def begin(edge: Edge) -> socket.socket:
            host, port = edge.url.removeprefix("http://").split(":")
            return stack.enter_context(socket.create_connection((host, int(port)), timeout=10))

        yield begin


def closed(edge: Edge, reason: str) -> float:
    return edge.count("tidegate_edge_connections_closed_total", reason=reason)


def is_open(client: socket.socket) -> bool:
    """Whether the server has not closed a connection on which it has nothing to say."""
    client.settimeout(0.05)
    try:
        return client.recv(1) != b""
    except TimeoutError:
        return True
    except ConnectionResetError:
        return False


def answered(client: socket.socket) -> bool:
    """Whether a request on an open connection is answered."""
    client.settimeout(10)
    client.sendall(SMALL)
    return client.recv(65_536).startswith(b"HTTP/1.1 404")


def test_a_client_is_served_while_2000_connections_are_silent(start: Start, connect: Connect) -> None:
    edge = start(max_connections=100)
    own = connect(edge)
    for _ in range(20):
        for _ in range(100):
            connect(edge)
        assert edge.answer({"user_id": "ann"})["source"] == "personalized"
    wait_until(lambda: closed(edge, SHED) >= 1900)
    assert len(edge.service.connections) <= 100
    assert not is_open(own)


def test_a_request_in_progress_is_never_closed_for_another(
    start: Start, torchserve: FakeTorchServe, connect: Connect
) -> None:
    edge = start(max_connections=2, deadline_ms=5000)
    torchserve.delay = 1.0
    busy = [connect(edge), connect(edge)]
    for number, client in enumerate(busy):
        body = f'{{"user_id":"{number}"}}'
        client.sendall((POST.format(edge.key, len(body)) + body).encode())
    wait_until(lambda: len(torchserve.requested_users()) == 2)
    refused = connect(edge)
    assert refused.recv(65_536) == BUSY.encode()
    assert closed(edge, REFUSED) == 1
    assert [client.recv(65_536)[9:12] for client in busy] == [b"200", b"200"]
    assert answered(connect(edge))  # both are idle now


def trickle(client: socket.socket, seconds: float) -> bool:
    """Send a byte now and then; whether the server closed the connection within these seconds."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            client.sendall(b"a")
        except OSError:
            return True
        if not is_open(client):
            return True
    return False


def test_a_connection_that_sends_nothing_is_closed_in_time(start: Start, connect: Connect) -> None:
    edge = start(head_seconds=0.5)
    client = connect(edge)
    wait_until(lambda: closed(edge, IDLE) == 1)
    assert not is_open(client)


def test_a_body_that_goes_on_after_its_refusal_is_closed(start: Start, connect: Connect) -> None:
    edge = start(body_seconds=0.5)
    client = connect(edge)
    client.sendall(POST.format("none", 10**9).encode())
    assert client.recv(65_536).startswith(b"HTTP/1.1 401")
    assert trickle(client, 10)
    assert closed(edge, SLOW_REQUEST) == 1
