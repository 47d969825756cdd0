"""Read the body of a request within bounds of size and time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from fastapi import Request

from web.errors import CLOSE, ApiError


async def read_body(request: Request, max_bytes: int, max_seconds: float, count: Callable[[int], None]) -> bytes:
    """The body. `count` is called with its length before it is read, or where it has none, with that of each part.

    Raises:
        ApiError: 408 where the body takes too long, 413 where it is too long, and what `count` raises.
        ClientDisconnect: the client left.
    """
    length = request.headers.get("content-length", "")
    is_declared = length.isascii() and length.isdigit()
    if is_declared and int(length) > max_bytes:
        raise ApiError(413, "body", f"is {length} bytes long; the limit is {max_bytes}", CLOSE)
    if is_declared:
        count(int(length))
    content = bytearray()
    try:
        async with asyncio.timeout(max_seconds):
            async for chunk in request.stream():
                content += chunk
                if len(content) > max_bytes:
                    raise ApiError(413, "body", f"is longer than {max_bytes} bytes", CLOSE)
                if not is_declared:
                    count(len(chunk))
    except TimeoutError:
        raise ApiError(408, "body", f"did not arrive within {max_seconds:g} s", CLOSE) from None
    return bytes(content)
