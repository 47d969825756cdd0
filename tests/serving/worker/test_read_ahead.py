"""TorchServe's messages, read in large pieces: the same bytes, whatever the pieces in which they come."""

from __future__ import annotations

import logging
import socket
import struct
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.worker.read_ahead import PIECE, ReadAhead, install


class Pieces:
    """A connection over which these pieces come, one at a call; counts the calls."""

    def __init__(self, pieces: list[bytes]) -> None:
        self.pieces, self.calls = pieces, 0

    def recv(self, size: int) -> bytes:
        self.calls += 1
        piece = self.pieces.pop(0) if self.pieces else b""
        assert len(piece) <= size
        return piece


@given(st.lists(st.binary(min_size=1, max_size=9), max_size=5), st.data())
@settings(max_examples=50)
def test_fields_are_whole_wherever_the_pieces_end(pieces: list[bytes], data: st.DataObject) -> None:
    sent, read, connection = b"".join(pieces), ReadAhead(), Pieces(list(pieces))
    taken = b""
    while len(taken) < len(sent):
        length = data.draw(st.integers(1, len(sent) - len(taken)))
        part = read.take(connection, length)
        assert len(part) == length
        taken += part

    assert taken == sent


def test_a_message_costs_one_call_to_the_system() -> None:
    connection, read = Pieces([b"abcdefgh"]), ReadAhead()

    assert [read.take(connection, 2) for _ in range(4)] == [b"ab", b"cd", b"ef", b"gh"]
    assert connection.calls == 1


@given(st.lists(st.integers(-(2**31), 2**31 - 1), max_size=6), st.lists(st.integers(1, 7), min_size=1, max_size=4))
def test_numbers_are_whole_wherever_the_pieces_end(numbers: list[int], sizes: list[int]) -> None:
    sent, pieces, read = struct.pack(f"!{len(numbers)}i", *numbers), [], ReadAhead()
    while sent:
        size = sizes[len(pieces) % len(sizes)]
        pieces.append(sent[:size])
        sent = sent[size:]
    connection = Pieces(pieces)

    assert [read.number(connection) for _ in numbers] == numbers


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    near, far = socket.socketpair()
    with near, far:
        yield near, far


def test_a_field_longer_than_a_piece_is_read_whole(pair: tuple[socket.socket, socket.socket]) -> None:
    near, far = pair
    sent = bytes(range(256)) * (PIECE // 100)
    far.setblocking(False)
    given = far.send(sent)

    assert ReadAhead().take(near, given) == sent[:given]


def test_a_worker_ends_where_its_frontend_has_gone(pair: tuple[socket.socket, socket.socket]) -> None:
    near, far = pair
    far.send(b"ab")
    far.close()

    with pytest.raises(SystemExit) as ended:
        ReadAhead().take(near, 4)

    assert ended.value.code == 0


def test_it_takes_the_place_of_torchserves_own() -> None:
    codec = pytest.importorskip("ts.protocol.otf_message_handler")
    message = b"I" + b"\x00\x00\x00\x02id" + b"\xff" * 4 + b"\xff" * 4 + b"\xff" * 4
    own = codec._retrieve_buffer, codec._retrieve_int
    try:
        install(codec)
        found = codec.retrieve_msg(Pieces([message[:3], message[3:]]))
    finally:
        codec._retrieve_buffer, codec._retrieve_int = own

    assert found == (b"I", [{"requestId": b"id", "headers": [], "parameters": []}])


def test_a_codec_that_reads_otherwise_is_left_alone(caplog: pytest.LogCaptureFixture) -> None:
    codec = SimpleNamespace(__name__="codec")
    with caplog.at_level(logging.WARNING):
        install(codec)

    assert "read piece by piece" in caplog.text
    assert not hasattr(codec, "_retrieve_buffer")
