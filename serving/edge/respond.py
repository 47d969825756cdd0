"""Bodies and statuses as ASGI messages."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import orjson

from serving.edge.errors import Refusal

Send = Callable[[dict[str, Any]], Awaitable[None]]

JSON, HTML = b"application/json", b"text/html; charset=utf-8"


async def json(send: Send, status: int, body: bytes, request_id: str | None = None, more: tuple = ()) -> None:
    """Send a JSON body. An id that no header can carry stays in the body alone."""
    named: tuple = ()
    if request_id is not None and request_id.isascii() and request_id.isprintable():
        named = ((b"x-request-id", request_id.encode()),)
    await raw(send, status, body, JSON, (*named, *more))


async def error(send: Send, refusal: Refusal, request_id: str | None = None) -> None:
    """Send {"code", "field", "message"}."""
    body = {"code": refusal.status, "field": refusal.field, "message": refusal.message}
    await json(send, refusal.status, orjson.dumps(body), request_id, tuple(refusal.headers))


async def raw(send: Send, status: int, body: bytes, kind: bytes, more: tuple = ()) -> None:
    headers = [
        (b"content-type", kind),
        (b"content-length", str(len(body)).encode()),
        (b"cache-control", b"no-store"),
        (b"x-content-type-options", b"nosniff"),
        *more,
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
