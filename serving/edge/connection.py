"""One HTTP/1.1 keep-alive connection on the event loop: a request's bytes go out, a status and a body come back."""

from __future__ import annotations

import asyncio
from typing import NamedTuple

import httptools

from serving.edge.errors import Garbled, Unreachable

MOST_BYTES = 16_000_000  # of one body


class Reply(NamedTuple):
    """What came back."""

    status: int
    body: bytes


class Connection(asyncio.Protocol):
    """Asks one thing at a time. Whoever stops waiting for an answer must `close` it: the answer may still come."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._waiter: asyncio.Future[Reply] | None = None
        self._body: list[bytes] = []
        self._length = 0
        self.heard = False  # whether anything came of the answer that is waited for

    @property
    def usable(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    async def ask(self, request: bytes) -> Reply:
        """Raises Unreachable where the other side closes first, Garbled where what comes is not HTTP."""
        if not self.usable:
            raise Unreachable("TorchServe closed the connection")
        self._waiter = asyncio.get_running_loop().create_future()
        self._body, self._length, self.heard = [], 0, False
        assert self._transport is not None
        self._transport.write(request)
        return await self._waiter

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    # Called by the event loop

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        self.heard = True
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self._fail(Garbled("what TorchServe's address answers is not HTTP"))

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        self._fail(Unreachable("TorchServe closed the connection"))

    # Called by the parser

    def on_body(self, part: bytes) -> None:
        self._body.append(part)
        self._length += len(part)
        if self._length > MOST_BYTES:
            self._fail(Garbled(f"TorchServe's answer exceeds {MOST_BYTES} bytes"))

    def on_message_complete(self) -> None:
        status = self._parser.get_status_code()
        if not self._parser.should_keep_alive():
            self.close()
        if status == 100 or self._waiter is None:  # said without being asked: nothing here can be trusted on
            self._fail(Garbled("TorchServe answered out of turn"))
        elif not self._waiter.done():
            self._waiter.set_result(Reply(status, b"".join(self._body)))
        self._waiter = None

    def _fail(self, error: Exception) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(error)
        self._waiter = None
        self.close()
