"""An HTTP request as the JSON body that `serving.worker.request.parse` checks; GET and POST ask the same."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple
from urllib.parse import parse_qsl

import orjson

from serving.edge.errors import Refusal

MOST_QUERY_BYTES = 8192
CONTEXT = "context."  # ?context.device=tv
FILTERS = "filters."
CLOSE = ((b"connection", b"close"),)  # what is still on its way is not read
DEADLINE_HEADER, CONSENT_HEADER, ID_HEADER = "X-Deadline-Ms", "X-Consent", "X-Request-Id"
LEAST_DEADLINE_MS = 10
CONSENT_WORDS = {"granted": True, "denied": False}
MOST_ID = 256

Receive = Callable[[], Awaitable[dict[str, Any]]]


class Gone(Exception):
    """The client left before its request was whole."""


class Headers(NamedTuple):
    """The headers that mean something here; bytes as they came."""

    authorization: bytes | None = None
    api_key: bytes | None = None
    length: bytes | None = None
    request_id: bytes | None = None
    deadline: bytes | None = None
    consent: bytes | None = None


NAMES = {
    b"authorization": "authorization",
    b"x-api-key": "api_key",
    b"content-length": "length",
    b"x-request-id": "request_id",
    b"x-deadline-ms": "deadline",
    b"x-consent": "consent",
}


def headers(pairs: list[tuple[bytes, bytes]]) -> Headers:
    """What the headers say.

    Raises:
        Refusal: they say one thing twice, of which a proxy before us may have read the other.
    """
    found: dict[str, bytes] = {}
    for name, value in pairs:
        field = NAMES.get(name)
        if field is None:
            continue
        if field in found and field != "request_id":  # to which each proxy on the way may add its own
            raise Refusal(400, name.decode(), "is stated twice")
        found[field] = value
    return Headers(**found)


async def read_body(receive: Receive, length: bytes | None, most_bytes: int, seconds: float) -> bytes:
    """The whole body.

    Raises:
        Refusal: 413 where it is too long, 408 where it takes too long.
        Gone: the client left.
    """
    if length is not None and length.isdigit() and int(length[:20]) > most_bytes:
        raise Refusal(413, "body", f"is {int(length[:20])} bytes long; at most {most_bytes} are read", CLOSE)
    try:
        async with asyncio.timeout(seconds):
            return await _collect(receive, most_bytes)
    except TimeoutError:
        raise Refusal(408, "body", f"did not arrive within {seconds:g} s", CLOSE) from None


async def _collect(receive: Receive, most_bytes: int) -> bytes:
    parts: list[bytes] = []
    size, more = 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Gone
        part = message.get("body", b"")
        parts.append(part)
        size += len(part)
        if size > most_bytes:
            raise Refusal(413, "body", f"is longer than the {most_bytes} bytes that are read", CLOSE)
        more = message.get("more_body", False)
    return b"".join(parts)


def from_body(raw: bytes) -> Any:
    """The JSON value of a body.

    Raises:
        Refusal: it is none, is nested deeper than can be read, or says one thing twice.
    """
    try:
        body = orjson.loads(raw)
        json.loads(raw, object_pairs_hook=_once)
        return body
    except ValueError as error:
        if not raw:
            raise Refusal(400, "body", "is missing; send one JSON object") from None
        raise Refusal(400, "body", f"is not JSON: {str(error)[:200]}") from None
    except RecursionError:
        raise Refusal(400, "body", "is nested too deeply") from None


def _once(pairs: list[tuple[str, Any]]) -> None:
    """Whoever looked at the body before us may have read the other value: another user's, say."""
    seen: set[str] = set()
    for name, _ in pairs:
        if name in seen:
            raise Refusal(400, name[:100], "is stated twice")
        seen.add(name)


def from_query(query: bytes) -> dict[str, Any]:
    """The body that a query string stands for: ?user_id=7&k=10&exclude=a&exclude=b&context.device=tv&filters.genres=x.

    Raises:
        Refusal: it cannot be read, or says one thing twice.
    """
    if len(query) > MOST_QUERY_BYTES:
        raise Refusal(
            400, "query", f"is {len(query)} bytes long; at most {MOST_QUERY_BYTES} are read: POST the request"
        )
    try:
        pairs = parse_qsl(query.decode("ascii"), keep_blank_values=True, strict_parsing=bool(query), errors="strict")
    except ValueError as error:  # UnicodeDecodeError too
        raise Refusal(400, "query", f"cannot be read: {str(error)[:100]}") from None
    body: dict[str, Any] = {}
    for name, value in pairs:
        if name == "exclude":
            body.setdefault(name, []).append(value)
            continue
        if name.startswith(FILTERS):
            body.setdefault("filters", {}).setdefault(name[len(FILTERS) :], []).append(value)
            continue
        if name in ("context", "filters"):
            raise Refusal(400, name, f"expected {name}.NAME=value")
        place, name = (
            (body.setdefault("context", {}), name[len(CONTEXT) :]) if name.startswith(CONTEXT) else (body, name)
        )
        if name in place:
            raise Refusal(400, name[:100], "is stated twice")
        place[name] = _whole(value) if place is body and name == "k" else value
    return body


def deadline_ms(stated: bytes | None, most: int) -> int:
    """The milliseconds that the client allows, at most those of the settings.

    Raises:
        Refusal: it is no whole number, or too small to answer in.
    """
    if stated is None:
        return most
    if not stated.isdigit() or len(stated) > 9 or int(stated) < LEAST_DEADLINE_MS:
        raise Refusal(400, DEADLINE_HEADER, f"expected whole milliseconds, at least {LEAST_DEADLINE_MS}")
    return min(int(stated), most)


def consent(stated: bytes | None) -> bool | None:
    """Whether the client says that the user agrees to personalisation; None where it says nothing.

    Raises:
        Refusal: it says something else than granted or denied.
    """
    if stated is None:
        return None
    word = stated.decode("latin-1").strip().lower()
    if word not in CONSENT_WORDS:
        raise Refusal(400, CONSENT_HEADER, "expected granted or denied")
    return CONSENT_WORDS[word]


def request_id(stated: bytes | None) -> str | None:
    """The header's id, where it is one that can be given back and logged; None makes us choose."""
    if not stated or len(stated) > MOST_ID:
        return None
    text = stated.decode("latin-1")
    return text if text.isascii() and text.isprintable() else None


def _whole(text: str) -> Any:
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 10 else text
