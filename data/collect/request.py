"""One HTTP request to the collector: its body, its write key, and the messages that it carries.

Segment's HTTP API: https://segment.com/docs/connections/sources/catalog/libraries/server/http-api/
"""

from __future__ import annotations

import base64
import binascii
import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from itertools import islice

import msgspec
from fastapi import Request
from msgspec import Raw, Struct

from data.collect.messages import Arrival, Kind
from data.collect.rows import CONTENT_TYPES, RowError, read_rows, to_message
from data.times import from_iso, now_us
from web.errors import ApiError

MAX_BATCH_BYTES = 500 * 1024  # uncompressed, as Segment's API
MAX_BODY_BYTES = 2 * MAX_BATCH_BYTES  # as sent; what is longer is not read
MAX_MESSAGES = 2_500  # in a batch
GZIP = 16 + zlib.MAX_WBITS  # makes zlib read gzip's format
TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*+"?|[\[\]{},]', re.DOTALL)  # a string (the last may lack its end), or a mark
MAX_TOKENS = 50_000  # that are looked at in a body that is no JSON: more would hold up others for too long
BATCH_START = re.compile(rb"\s*:\s*\[")


class _Envelope(Struct, rename="camel"):
    """What a body says besides its messages."""

    write_key: str | None = None
    sent_at: str | None = None
    context: Raw = Raw(b"null")
    batch: list[Raw] | msgspec.UnsetType = msgspec.UNSET


@dataclass(frozen=True)
class Body:
    """The messages of a request, and what they share."""

    messages: Sequence[bytes]
    arrival: Arrival
    write_key: str | None


def decompress(content: bytes, encoding: str) -> bytes:
    """The body as JSON text. Raises ApiError: 400 for another encoding than gzip, damaged or too long content."""
    if encoding.strip().lower() in ("", "identity"):
        text = content
    elif encoding.strip().lower() == "gzip":
        decompressor = zlib.decompressobj(GZIP)
        try:
            text = decompressor.decompress(content, MAX_BATCH_BYTES + 1)
        except zlib.error as error:
            raise ApiError(400, "body", f"is not gzip: {error}") from None
        if len(text) <= MAX_BATCH_BYTES and not decompressor.eof:
            raise ApiError(400, "body", "its gzip content is cut off")
    else:
        raise ApiError(400, "content-encoding", f"is {encoding[:40]!r}; expected gzip or none")
    if len(text) > MAX_BATCH_BYTES:
        raise ApiError(400, "body", f"is longer than {MAX_BATCH_BYTES} bytes; send smaller batches")
    return text


def parse_body(content: bytes, kind: Kind | None, or_single: bool = False) -> Body:
    """Split a body into messages: a batch, or one message of a kind. Raises ApiError: 400, it is not such JSON.

    Args:
        kind: of the one message; None: the body is a batch.
        or_single: take a body that has no `batch` as one message.
    """
    try:
        envelope = _read_envelope(content)
        if envelope.batch is msgspec.UNSET and kind is None and not or_single:
            raise ApiError(400, "batch", "is missing; expected a list of events")
    except msgspec.ValidationError as error:
        problem, _, path = str(error).partition(" - at ")
        raise ApiError(400, path.strip("`").removeprefix("$.") or "body", problem) from None
    except (msgspec.DecodeError, RecursionError, UnicodeError) as error:
        raise ApiError(400, "body", f"is not JSON: {error}") from None
    if kind is not None or envelope.batch is msgspec.UNSET:
        return Body([content], Arrival(now_us(), _sent_us(envelope.sent_at), kind), envelope.write_key)
    if len(envelope.batch) > MAX_MESSAGES:
        raise ApiError(400, "batch", f"has {len(envelope.batch)} events; expected at most {MAX_MESSAGES}")
    arrival = Arrival(now_us(), _sent_us(envelope.sent_at), None, bytes(envelope.context))
    return Body([bytes(raw) for raw in envelope.batch], arrival, envelope.write_key)


def _read_envelope(content: bytes) -> _Envelope:
    """Parse a body. A part of its batch that is no JSON stays as it is: it costs the others nothing.

    Raises:
        msgspec.MsgspecError, RecursionError, UnicodeError: the body around the batch is no JSON either.
    """
    try:
        return msgspec.json.decode(content, type=_Envelope)
    except msgspec.ValidationError:
        raise
    except (msgspec.DecodeError, RecursionError, UnicodeError):
        cut = _cut_batch(content)
        if cut is None:
            raise
    around, messages = cut
    envelope = msgspec.json.decode(around, type=_Envelope)
    envelope.batch = [Raw(message) for message in messages]
    return envelope


def _cut_batch(content: bytes) -> tuple[bytes, list[bytes]] | None:
    """Cut a body at the commas of its `batch`: the body with an empty batch, and the parts. None: it has no such list.

    Looks at strings and brackets only, so that a part may be anything else: half of a surrogate pair, NaN as Python
    writes it, or nested deeper than the parser goes.
    """
    depth, begin, start, parts = 0, -1, 0, []
    for match in islice(TOKEN.finditer(content), MAX_TOKENS):
        mark, at = match[0], match.start()
        depth += (mark in (b"[", b"{")) - (mark in (b"]", b"}"))
        if begin < 0:
            if depth == 1 and mark == b'"batch"' and (opening := BATCH_START.match(content, match.end())):
                begin = start = opening.end()
        elif depth < 2 or (depth == 2 and mark == b","):
            parts.append(content[start:at].strip())
            start = at + 1
            if depth < 2:
                parts = [] if parts == [b""] else parts
                return (content[:begin] + content[at:], parts) if all(parts) else None
    return None


def parse_rows(content: bytes, content_type: str, kind: Kind) -> list[bytes]:
    """The messages of the rows of a body. Raises ApiError: 415 for another format; 400, it is damaged or too long."""
    row_format = CONTENT_TYPES.get(content_type.partition(";")[0].strip().lower())
    if row_format is None:
        raise ApiError(415, "content-type", f"is {content_type[:60]!r}; expected one of {', '.join(CONTENT_TYPES)}")
    messages, size = [], 0
    try:
        for row in read_rows(BytesIO(content), row_format, MAX_BATCH_BYTES):
            messages.append(to_message(row, kind))
            size += len(messages[-1])
            if len(messages) > MAX_MESSAGES or size > MAX_BATCH_BYTES:
                limit = f"{MAX_MESSAGES} rows and {MAX_BATCH_BYTES} bytes as JSON"
                raise ApiError(400, "body", f"has too many rows; send at most {limit}")
    except RowError as error:
        raise ApiError(400, "body", str(error)) from None
    return messages


def key_in_headers(request: Request) -> str | None:
    """The text of the write key: Basic's user name, or Bearer's token."""
    scheme, _, text = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return text.strip()
    if scheme.lower() == "basic":
        try:
            return base64.b64decode(text, validate=True).decode().partition(":")[0]
        except (binascii.Error, UnicodeDecodeError):
            return None
    return None


def _sent_us(text: str | None) -> int | None:
    """When the request was sent, by the sender's clock; None if it does not say."""
    try:
        return None if text is None else from_iso(text)
    except ValueError:
        return None
