"""Checks of a request's headers before anything else reads them."""

from __future__ import annotations

from collections.abc import Callable, Collection

from fastapi import Request, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from web.errors import CLOSE, ApiError

BODY_HEADERS = frozenset({b"content-length", b"transfer-encoding"})
MAX_HEADERS, MAX_HEADER_BYTES = 100, 32_768


class HeaderCheck:
    """ASGI middleware that refuses headers which a proxy in front may have read differently, and too many of them.

    Args:
        unrepeatable: names of headers that may be sent once, in small letters.
        refuse: makes the response of an error.
    """

    def __init__(
        self, app: ASGIApp, unrepeatable: Collection[bytes], refuse: Callable[[Request, ApiError], Response]
    ) -> None:
        self._app, self._unrepeatable, self._refuse = app, frozenset(unrepeatable), refuse

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        error = check_headers(scope["headers"], self._unrepeatable) if scope["type"] == "http" else None
        if error is None:
            await self._app(scope, receive, send)
        else:
            await self._refuse(Request(scope), error)(scope, receive, send)


def check_headers(headers: list[tuple[bytes, bytes]], unrepeatable: frozenset[bytes]) -> ApiError | None:
    """What is wrong with a request's headers, if anything."""
    if len(headers) > MAX_HEADERS:
        return ApiError(431, "headers", f"are {len(headers)}; the limit is {MAX_HEADERS}", CLOSE)
    if (length := sum(len(name) + len(value) for name, value in headers)) > MAX_HEADER_BYTES:
        return ApiError(431, "headers", f"are {length} bytes long; the limit is {MAX_HEADER_BYTES}", CLOSE)
    seen: set[bytes] = set()
    for name, _ in headers:
        if name in seen and name in unrepeatable:
            return ApiError(400, name.decode(), "is sent twice")
        seen.add(name)
    # httptools reads no body after an offer to upgrade: it would take the body for the next request.
    if b"upgrade" in seen and not seen.isdisjoint(BODY_HEADERS):
        return ApiError(400, "upgrade", "is offered by a request with a body; only HTTP/1.1 is spoken here", CLOSE)
    return None
