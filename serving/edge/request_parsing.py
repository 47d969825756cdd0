"""An HTTP request as the JSON body that `serving.worker.request.parse` checks; GET and POST carry the same fields."""

from __future__ import annotations

import asyncio
import json
from collections import Counter, defaultdict
from collections.abc import Callable
from typing import Any, TypeVar
from urllib.parse import parse_qsl

from fastapi import Request
from pydantic import ValidationError

from config.validation import error_message
from serving.edge.models import HEADERS, RequestHeaders
from web.errors import ApiError

MAX_QUERY_BYTES = 8192
MAX_NAME_LENGTH = 100  # of a field that an error repeats
MAX_REQUEST_ID_LENGTH = 256
MAX_K_DIGITS = 9
CONTEXT, FILTERS = "context", "filters"  # ?context.device=tv&filters.genres=Drama
UNREPEATABLE_HEADERS = frozenset({b"authorization", b"x-api-key", b"x-deadline-ms", b"x-consent"})
HEAVY_BYTES = 65_536  # longer bodies are parsed in a thread
MAX_HEAVY = 4  # long bodies of one API key that wait or are parsed: more would wait past their deadlines
MAX_HEAVY_KEYS = 16  # API keys whose long bodies wait or are parsed

Value = TypeVar("Value")


def read_key(request: Request) -> str | None:
    """The text of the API key, from `Authorization: Bearer KEY` or `X-API-Key: KEY`."""
    authorization = request.headers.get("authorization")
    if authorization is None:
        return request.headers.get("x-api-key")
    scheme, _, text = authorization.partition(" ")
    return text.strip() if scheme.lower() == "bearer" else None


def parse_headers(request: Request) -> RequestHeaders:
    """The headers other than the key. Raises ApiError: 400."""
    values = {name: value for name in HEADERS if (value := request.headers.get(name)) is not None}
    try:
        return RequestHeaders.model_validate(values)
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        raise ApiError(400, str(fault["loc"][0]), error_message(fault)) from None


def check_structure(content: bytes, max_values: int) -> None:
    """Raises ApiError where a JSON text may hold too many values to be parsed quickly; characters of texts count too."""
    found = sum(content.count(mark) for mark in (b"{", b"[", b","))
    if found > max_values:
        raise ApiError(400, "body", f"holds about {found} values; the limit is {max_values}", reason="many_values")


class HeavyBodies:
    """Parses long bodies in a thread, one at a time, so that other requests wait for a moment of it at most.

    The API keys take turns: a body waits for one body of each other key.
    """

    def __init__(self) -> None:
        self._turn = asyncio.Lock()  # these locks are fair: first come, first served
        self._turns: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)  # key id -> which of its bodies is next
        self._waiting: Counter[str] = Counter()

    async def run(self, key_id: str, length: int, parse: Callable[[], Value]) -> Value:
        """What `parse` returns for a body of this length. Raises ApiError: 429 where too many wait."""
        if length <= HEAVY_BYTES:
            return parse()
        waiting = self._waiting[key_id]
        if waiting >= MAX_HEAVY or (not waiting and len(self._waiting) >= MAX_HEAVY_KEYS):
            message = "too many long bodies wait to be parsed: heavy_bodies is the limit"
            raise ApiError(429, "body", message, {"Retry-After": "1"}, reason="heavy_bodies")
        self._waiting[key_id] += 1
        try:
            async with self._turns[key_id], self._turn:
                return await asyncio.to_thread(parse)
        finally:
            self._waiting[key_id] -= 1
            if not self._waiting[key_id]:
                del self._waiting[key_id], self._turns[key_id]


def parse_json(content: bytes) -> Any:
    """The value of a JSON text. Raises ApiError: it is no JSON, too deep, or repeats a name within one object."""
    if not content:
        raise ApiError(400, "body", "is missing; send one JSON object")
    try:
        return json.loads(content.decode(), object_pairs_hook=_unique_names, parse_constant=_refuse_constant)
    except ValueError as error:  # UnicodeDecodeError too
        raise ApiError(400, "body", f"is not JSON: {str(error)[:200]}") from None
    except RecursionError:
        raise ApiError(400, "body", "is nested too deeply") from None


def _unique_names(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The object of these pairs. A proxy that read the body before us may have taken the other of two values."""
    values: dict[str, Any] = {}
    for name, value in pairs:
        _set_once(values, name, value)
    return values


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a JSON number")


def parse_query(query: bytes) -> dict[str, Any]:
    """The body for a query string: ?user_id=7&k=10&exclude=a&exclude=b&context.device=tv&filters.genres=Drama.

    Raises:
        ApiError: the query cannot be read, or repeats a field that has one value.
    """
    if len(query) > MAX_QUERY_BYTES:
        raise ApiError(400, "query", f"is {len(query)} bytes long; the limit is {MAX_QUERY_BYTES}: POST the request")
    try:
        pairs = parse_qsl(query.decode("ascii"), keep_blank_values=True, strict_parsing=bool(query), errors="strict")
    except ValueError as error:  # UnicodeDecodeError too
        raise ApiError(400, "query", f"cannot be read: {str(error)[:100]}") from None
    body: dict[str, Any] = {}
    for name, value in pairs:
        group, dot, key = name.partition(".")
        if name == "exclude":
            body.setdefault(name, []).append(value)
        elif name in (CONTEXT, FILTERS):
            raise ApiError(400, name, f"expected {name}.NAME=value")
        elif dot and group == FILTERS:
            body.setdefault(FILTERS, {}).setdefault(key, []).append(value)
        elif dot and group == CONTEXT:
            _set_once(body.setdefault(CONTEXT, {}), key, value)
        else:
            _set_once(body, name, _parse_int(value) if name == "k" else value)
    return body


def usable_request_id(header: str | None) -> str | None:
    """The id of the header, if it can be returned and logged."""
    if not header or len(header) > MAX_REQUEST_ID_LENGTH:
        return None
    return header if header.isascii() and header.isprintable() else None


def _set_once(values: dict[str, Any], name: str, value: Any) -> None:
    if name in values:
        raise ApiError(400, name[:MAX_NAME_LENGTH], "is sent twice")
    values[name] = value


def _parse_int(text: str) -> Any:
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= MAX_K_DIGITS else text
