"""A body that is too long or too slow is refused, whether its length is declared or not."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

import pytest
from starlette.requests import Request
from starlette.types import Message

from web.errors import ApiError
from web.request_body import read_body

MAX_BYTES, MAX_SECONDS = 10, 0.1


def read(parts: Iterable[bytes], length: str | None = None, is_whole: bool = True) -> tuple[bytes, list[int]]:
    """The body of a request in these parts, and the amounts that were counted."""
    headers = [] if length is None else [(b"content-length", length.encode())]
    messages: list[Message] = [{"type": "http.request", "body": part, "more_body": True} for part in parts]
    if is_whole:
        messages.append({"type": "http.request", "body": b"", "more_body": False})

    async def receive() -> Message:
        if not messages:
            await asyncio.Event().wait()
        return messages.pop(0)

    counted: list[int] = []
    request = Request({"type": "http", "method": "POST", "headers": headers}, receive)
    return asyncio.run(read_body(request, MAX_BYTES, MAX_SECONDS, counted.append)), counted


def refusal(*arguments, **named) -> tuple[int, str | None, str]:
    with pytest.raises(ApiError) as error:
        read(*arguments, **named)
    assert error.value.headers == {"Connection": "close"}
    return error.value.status_code, error.value.field, error.value.detail


def test_a_declared_body_is_counted_once_and_another_by_its_parts() -> None:
    assert read([b"1234", b"56"], "6") == (b"123456", [6])
    counted = read([b"1234", b"56"])[1]
    assert (sum(counted), counted[:2]) == (6, [4, 2])


def test_a_body_that_is_too_long_is_a_413() -> None:
    assert read([b"0123456789"])[0] == b"0123456789"
    assert refusal([], "11") == (413, "body", "is 11 bytes long; the limit is 10")
    assert refusal([b"0123456789", b"a"], is_whole=False) == (413, "body", "is longer than 10 bytes")


def test_a_body_that_does_not_come_in_time_is_a_408() -> None:
    assert refusal([b"1234"], "6", is_whole=False) == (408, "body", "did not arrive within 0.1 s")
