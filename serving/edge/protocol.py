"""HTTP/1.1 as uvicorn speaks it, with what it lacks: bounds on a request's head, and errors in our own form."""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import Any

import orjson
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MOST_HEAD_BYTES = 32_768  # of the request line and all headers
HEAD_SECONDS = 10.0
LINE_BYTES = len(": \r\n")
OF_A_BODY = (b"content-length", b"transfer-encoding")

MALFORMED = (400, "request", "is not HTTP/1.1, or leaves open where it ends")
UPGRADE = (400, "upgrade", "is offered by a request with a body; HTTP/1.1 alone is spoken here")
TOO_LONG = (431, "headers", f"are longer than the {MOST_HEAD_BYTES} bytes that are read, the request line included")
TOO_SLOW = (408, "headers", f"did not arrive within {HEAD_SECONDS:g} s")


class BadHead(Exception):
    """Tells the parser to stop."""


class BoundedHttp(HttpToolsProtocol):
    """Whoever sends a head without end, or never ends it, holds neither memory nor a connection for long."""

    def __init__(self, *arguments: Any, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self._in_head, self._head_bytes = False, 0
        self._fault = MALFORMED
        self._head_timer: asyncio.TimerHandle | None = None

    # Called by the event loop

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._wait_for_next()

    def data_received(self, data: bytes) -> None:
        was_in_head = self._in_head
        super().data_received(data)
        if self.transport.is_closing():
            return
        if not self._in_head:
            self._wait_for_next()
            return
        if self._head_timer is None:
            self._head_timer = self.loop.call_later(HEAD_SECONDS, self._refuse, TOO_SLOW)
        if was_in_head:  # the part that began it came in one read, which is bounded
            self._head_bytes += len(data)
        if self._head_bytes > MOST_HEAD_BYTES:
            self._refuse(TOO_LONG)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_head_timer()
        super().connection_lost(exc)

    # Called by the parser

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head, self._head_bytes = True, 0

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._stop_head_timer()
        if len(self.url) + sum(len(name) + len(value) + LINE_BYTES for name, value in self.headers) > MOST_HEAD_BYTES:
            self._fault = TOO_LONG
            raise BadHead
        # After an offer to upgrade the parser takes no body: it would read it as the next request, a smuggler's way in.
        if self.parser.should_upgrade() and any(name in OF_A_BODY for name, _ in self.headers):
            self._fault = UPGRADE
            raise BadHead
        super().on_headers_complete()

    # Called by uvicorn

    def send_400_response(self, msg: str) -> None:
        self._refuse(self._fault)

    def _unsupported_upgrade_warning(self) -> None:
        """An offer of another protocol may be passed over."""

    def _refuse(self, fault: tuple[int, str, str]) -> None:
        status, field, message = fault
        self.app.refused(status)  # the app that every process here runs
        self._stop_head_timer()
        body = orjson.dumps({"code": status, "field": field, "message": message})
        head = (
            f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}\r\ncache-control: no-store\r\nconnection: close\r\n\r\n"
        )
        self.transport.write(head.encode() + body)
        self.transport.close()

    def _wait_for_next(self) -> None:
        """Close a connection on which nothing is asked, also one on which nothing ever was."""
        idle = self.cycle is None or self.cycle.response_complete
        if idle and self.timeout_keep_alive_task is None:
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    def _stop_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None
