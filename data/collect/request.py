"""One HTTP request to the collector: its body, its write key, and the messages that it carries.

Segment's HTTP API: https://segment.com/docs/connections/sources/catalog/libraries/server/http-api/
"""

from __future__ import annotations

import base64
import binascii
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
from fastapi import Request
from msgspec import Raw, Struct

from data.collect.messages import Arrival, Kind
from data.times import from_iso, now_us
from web.errors import ApiError

MAX_BATCH_BYTES = 500 * 1024  # uncompressed, as Segment's API
MAX_BODY_BYTES = 2 * MAX_BATCH_BYTES  # as sent; what is longer is not read
MAX_MESSAGES = 2_500  # in a batch
GZIP = 16 + zlib.MAX_WBITS  # makes zlib read gzip's format


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
        envelope = msgspec.json.decode(content, type=_Envelope)
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
