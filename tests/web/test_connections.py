"""Connections that send nothing, too slowly, too much or read nothing make room; a request that waits for its answer never does."""

from __future__ import annotations

import resource
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
from running import wait_until
from small_service import SmallService, StartSmall

from web import connections
from web.connections import (
    BUSY,
    IDLE,
    LONG_REQUEST,
    MAX_HEAD_BYTES,
    MAX_UNANSWERED,
    REFUSED,
    SENT_AHEAD,
    SHED,
    SLOW_READER,
    SLOW_REQUEST,
    YOUNG_SECONDS,
    allow_open_files,
)

SMALL = b"GET /nothing HTTP/1.1\r\nHost: x\r\n\r\n"  # answered at once, with a 404
POST = "POST /{} HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n"

Connect = Callable[[SmallService], socket.socket]


@pytest.fixture
def connect() -> Iterator[Connect]:
    with ExitStack() as stack:

        def begin(service: SmallService) -> socket.socket:
            return stack.enter_context(socket.create_connection(("127.0.0.1", service.port), timeout=10))

        yield begin


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


def test_a_client_is_served_while_2000_connections_are_silent(start: StartSmall, connect: Connect) -> None:
    service = start(max_connections=100)
    own = connect(service)
    for _ in range(20):
        for _ in range(100):
            connect(service)
        assert service.http.get("/short").text == "short"
    wait_until(lambda: service.closed[SHED] >= 1900)
    assert len(service.limiter) <= 100
    assert not is_open(own)


def test_the_silent_go_before_the_idle_and_the_longest_of_each_first(start: StartSmall, connect: Connect) -> None:
    service = start(max_connections=6)
    idle = [connect(service) for _ in range(3)]
    assert all(map(answered, idle))
    silent = [connect(service) for _ in range(3)]
    wait_until(lambda: len(service.limiter) == 6)
    time.sleep(YOUNG_SECONDS + 0.1)

    young = [connect(service)]
    for gone in (*silent, idle[0], young[0]):  # at last most have just come, and one of them goes
        wait_until(lambda: service.closed[SHED] == len(young))
        assert not is_open(gone)
        if gone is not young[0]:
            young.append(connect(service))
    assert [*map(is_open, idle)] == [False, True, True]
    assert [*map(is_open, young)] == [False, True, True, True, True]


def test_a_request_in_progress_is_never_closed_for_another(start: StartSmall, connect: Connect) -> None:
    service = start(max_connections=2)
    service.delay = 1.0
    busy = [connect(service), connect(service)]
    for client in busy:
        client.sendall(POST.format("slow", 2).encode() + b"{}")
    wait_until(lambda: service.begun == 2)
    refused = connect(service)
    assert refused.recv(65_536) == BUSY.encode()
    assert service.closed[REFUSED] == 1
    assert [client.recv(65_536)[9:12] for client in busy] == [b"200", b"200"]
    assert answered(connect(service))  # both are idle now


def test_a_body_that_does_not_come_makes_room(start: StartSmall, connect: Connect) -> None:
    service = start(max_connections=2)
    slow = [connect(service), connect(service)]
    for client in slow:
        client.sendall(POST.format("length", 1000).encode() + b"{")
    wait_until(lambda: len(service.limiter) == 2)
    time.sleep(YOUNG_SECONDS + 0.1)
    assert answered(connect(service))
    assert [*map(is_open, slow)] == [False, True]


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


@pytest.mark.parametrize("is_first", [True, False])
def test_a_head_that_does_not_become_whole_is_closed_however_often_a_byte_comes(
    start: StartSmall, connect: Connect, is_first: bool
) -> None:
    service = start(head_seconds=0.5)
    client = connect(service)
    assert is_first or answered(client)
    client.sendall(b"GET /")
    assert trickle(client, 8)
    assert service.closed[SLOW_REQUEST] == 1


def test_a_connection_that_sends_nothing_is_closed_in_time(start: StartSmall, connect: Connect) -> None:
    service = start(head_seconds=0.5)
    client = connect(service)
    wait_until(lambda: service.closed[IDLE] == 1)
    assert not is_open(client)


def test_a_body_that_goes_on_after_its_refusal_is_closed(start: StartSmall, connect: Connect) -> None:
    service = start(body_seconds=0.5)
    client = connect(service)
    client.sendall(POST.format("refused", 10**9).encode())
    assert client.recv(65_536).startswith(b"HTTP/1.1 401")
    assert trickle(client, 10)
    assert service.closed[SLOW_REQUEST] == 1


def is_cut_off(client: socket.socket, first: bytes, part: bytes, times: int) -> bool:
    """Whether the server closes the connection while these bytes come."""
    try:
        for content in [first, *[part] * times]:
            client.sendall(content)
            time.sleep(0.001)
    except OSError:
        return True
    return False


@pytest.mark.parametrize("first", [b"GET /", b"GET /nothing HTTP/1.1\r\nX-Long: ", SMALL + b"GET /"])
def test_a_head_without_an_end_is_closed_before_it_fills_memory(
    service: SmallService, connect: Connect, first: bytes
) -> None:
    assert is_cut_off(connect(service), first, b"a" * MAX_HEAD_BYTES, 100)
    assert service.closed[LONG_REQUEST] == 1


def test_trailers_without_an_end_are_closed(service: SmallService, connect: Connect) -> None:
    first = b"POST /length HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n"
    assert is_cut_off(connect(service), first, b"X-More: a\r\n" * 1000, 1000)
    assert service.closed[LONG_REQUEST] == 1


def test_many_requests_sent_ahead_are_closed_and_a_few_are_answered(service: SmallService, connect: Connect) -> None:
    few, many = connect(service), connect(service)
    few.sendall(SMALL * 5)
    got = b""
    while got.count(b"HTTP/1.1 404") < 5:
        got += few.recv(65_536)
    many.sendall(SMALL * 5 * MAX_UNANSWERED)
    wait_until(lambda: service.closed[SENT_AHEAD] == 1)


def test_a_client_that_reads_nothing_is_closed(
    start: StartSmall, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "STALLED_SECONDS", 0.5)
    service = start()
    ask_for_much(service, connect)
    wait_until(lambda: service.closed[SLOW_READER] == 1)
    assert len(service.limiter) == 0


def ask_for_much(service: SmallService, connect: Connect) -> socket.socket:
    """A client that asks for a megabyte and a half, ten times, and reads none of it."""
    client = connect(service)
    client.sendall(b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n" * 10)
    return client


def test_clients_that_read_slowly_make_room_for_new_ones_the_slowest_first(start: StartSmall, connect: Connect) -> None:
    service = start(max_connections=3)
    for _ in range(3):
        ask_for_much(service, connect)
    wait_until(lambda: len(service.limiter._slow) == 3)
    for number in range(1, 4):
        assert answered(connect(service))
        assert service.closed[SHED] == number
    assert service.closed[REFUSED] == 0


def test_a_slow_reader_goes_before_an_idle_client(start: StartSmall, connect: Connect) -> None:
    service = start(max_connections=2)
    slow = ask_for_much(service, connect)
    wait_until(lambda: len(service.limiter._slow) == 1)
    time.sleep(YOUNG_SECONDS + 0.1)
    assert service.http.get("/short").status_code == 200
    assert answered(connect(service))
    assert service.closed[SHED] == 1
    assert is_cut(slow)


def is_cut(client: socket.socket) -> bool:
    """Whether the server closed the connection before it had sent everything."""
    received = 0
    try:
        while content := client.recv(65_536):
            received += len(content)
    except ConnectionResetError:
        pass
    return received < 10_000_000


def test_a_client_that_trickles_a_response_is_closed(
    start: StartSmall, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "STALLED_SECONDS", 60.0)
    monkeypatch.setattr(connections, "RESPONSE_SECONDS", 1.0)
    service = start()
    client = ask_for_much(service, connect)
    wait_until(lambda: len(client.recv(1000)) > 0 and service.closed[SLOW_READER] == 1)


def test_the_limit_of_open_files_leaves_room_for_the_connections() -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, before[1]))
        assert allow_open_files(1000) == 1000
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] > 1000
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
