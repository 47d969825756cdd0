"""Rows of users, items and events in JSON lines, CSV or Parquet, and the messages that the collector reads of them."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from contextlib import suppress
from datetime import date, datetime
from hashlib import blake2b
from typing import Any, BinaryIO, Literal, get_args

import msgspec

from data.collect.messages import ITEM, ITEM_FIELDS, KINDS, Kind, Message
from data.times import from_iso, to_iso

Format = Literal["jsonl", "csv", "parquet"]
FORMATS = get_args(Format)
CONTENT_TYPES: dict[str, Format] = {
    "application/x-ndjson": "jsonl",
    "application/jsonl": "jsonl",
    "text/csv": "csv",
    "application/vnd.apache.parquet": "parquet",
}
Row = dict[str, Any] | bytes  # bytes: a line that holds no such object, as JSON if it can be
ID_COLUMNS = {"identify": ("user_id", "id"), ITEM: ("item_id", "id")}
GENRE_SEPARATOR = "|"
EVENT_COLUMNS = {  # of a flat row of an event -> field of a message
    "user_id": "userId",
    "anonymous_id": "anonymousId",
    "message_id": "messageId",
    "event_time": "timestamp",
    "event_type": "event",
}
MESSAGE_FIELDS = set(Message.__struct_encode_fields__)
PARQUET_ROWS = 100  # read at once
MIN_TIME_DIGITS = 9  # from here on digits in text are microseconds since 1970; fewer may be a date or a year
ENCODER = msgspec.json.Encoder(order="sorted")


class RowError(ValueError):
    """The file is not of its format, or too large."""


def read_rows(file: BinaryIO, kind: Format, max_bytes: int | None = None) -> Iterator[Row]:
    """The rows of a file, one at a time. Empty cells are left out; cells of CSV are text.

    Args:
        max_bytes: of a Parquet file that is not compressed. None: no limit.

    Raises:
        RowError: the file is not of this format.
    """
    match kind:
        case "jsonl":
            rows = _read_json_lines(file)
        case "csv":
            rows = _read_csv(file)
        case "parquet":
            rows = _read_parquet(file, max_bytes)
    for row in rows:
        yield {name: value for name, value in row.items() if not _is_empty(value)} if isinstance(row, dict) else row


def to_message(row: Row, kind: Kind) -> bytes:
    """The message of a row of users (`identify`) or items (`item`); what is no row stays as it is, and is rejected.

    A row with an `event_time` and without a `message_id` gets an id from its content: repeated, it is a duplicate.
    """
    if isinstance(row, bytes):
        return row
    fields = dict(row)
    message_id, time = fields.pop("message_id", None), fields.pop("event_time", None)
    if message_id is None and time is not None:
        message_id = blake2b(ENCODER.encode([kind, row]), digest_size=16).hexdigest()
    message: dict[str, Any] = {"type": kind, "messageId": message_id, "timestamp": _iso(time)}
    own_id = next((fields.pop(name) for name in ID_COLUMNS[kind] if name in fields), None)
    if kind == ITEM:
        properties = {name: fields.pop(name) for name in ITEM_FIELDS if name in fields}
        message["properties"] = _parse_item(properties) | {"item_id": own_id}
    else:
        message["userId"] = own_id
    return ENCODER.encode(message | {"traits": fields})


def to_event_message(row: Row) -> dict[str, Any] | str:
    """The message of a row of events: of Segment's form, or flat. In a flat row, what is no field is a property.

    What is no row comes back as text, which is rejected.
    """
    if isinstance(row, bytes):
        return row.decode(errors="replace")
    fields = {EVENT_COLUMNS.get(name, name): value for name, value in row.items()}
    message = {name: value for name, value in fields.items() if name in MESSAGE_FIELDS}
    properties = {name: value for name, value in fields.items() if name not in MESSAGE_FIELDS}
    if properties and isinstance(message.get("properties", {}), dict):
        message["properties"] = message.get("properties", {}) | properties
    if "timestamp" in message:
        message["timestamp"] = _iso(message["timestamp"])
    return {"type": KINDS[0]} | message


def _read_json_lines(file: BinaryIO) -> Iterator[Row]:
    for line in file:
        if text := line.strip():
            try:
                yield msgspec.json.decode(text, type=dict[str, Any])
            except (msgspec.MsgspecError, RecursionError, UnicodeError):
                yield text


def _read_csv(file: BinaryIO) -> Iterator[Row]:
    text = io.TextIOWrapper(file, "utf-8-sig", newline="")
    try:
        lines = csv.reader(text, strict=True)
        header = next(lines, [])
        if len(set(header)) < len(header):
            raise RowError("the header names a column twice")
        for cells in lines:
            if len(cells) == len(header):
                yield dict(zip(header, cells, strict=True))
            elif cells:  # a line with more or fewer cells is no row
                yield ENCODER.encode(cells)
    except (csv.Error, UnicodeError) as error:
        raise RowError(f"it is no CSV in UTF-8: {error}") from None
    finally:
        text.detach()


def _read_parquet(file: BinaryIO, max_bytes: int | None) -> Iterator[Row]:
    import pyarrow as pa  # slow to import, and most collectors get no Parquet
    import pyarrow.parquet as pq

    try:
        parquet = pq.ParquetFile(file)
        size = sum(parquet.metadata.row_group(n).total_byte_size for n in range(parquet.num_row_groups))
        if max_bytes is not None and size > max_bytes:
            raise RowError(f"it has {size} bytes when it is not compressed; expected at most {max_bytes}")
        for batch in parquet.iter_batches(PARQUET_ROWS):
            types = [
                pa.timestamp("us", each.tz) if pa.types.is_timestamp(each) else each for each in batch.schema.types
            ]
            schema = pa.schema(list(zip(batch.schema.names, types, strict=True)))
            yield from pa.table(batch.columns, names=batch.schema.names).cast(schema, safe=False).to_pylist()
    except (pa.ArrowException, OSError) as error:
        raise RowError(f"it is no Parquet file: {error}") from None


def _is_empty(value: Any) -> bool:
    return value is None or value == "" or value != value  # NaN


def _iso(value: Any) -> str | None:
    """A time as ISO 8601; what is none stays as it is, and is rejected."""
    if isinstance(value, datetime | date):
        return value.isoformat()
    if isinstance(value, str) and value.isdigit() and len(value) >= MIN_TIME_DIGITS:
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool):
        try:
            return to_iso(value)
        except OverflowError:
            return str(value)
    return value if value is None else str(value)


def _parse_item(properties: dict[str, Any]) -> dict[str, Any]:
    """The fields of an item: genres as a list, the release time in microseconds."""
    genres = properties.get("genres")
    if isinstance(genres, str):
        properties["genres"] = [name for part in genres.split(GENRE_SEPARATOR) if (name := part.strip())]
    with suppress(KeyError, ValueError):  # what is no time stays as it is, and is rejected
        properties["release_time"] = from_iso(_iso(properties["release_time"]) or "")
    return properties
