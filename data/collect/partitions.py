"""Daily partitions: the collected events as Parquet, which datasets read.

The folder `known_date=2026-11-30` holds what became known on that UTC day, in one part or several. Part 1 is
`part-1.json`, which says what is in it, `events-1.parquet` (events about items), `people-1.parquet` (identify, alias,
group) and `items-1.parquet` (what the catalog says). A part exists as soon as its `part-1.json` does, and never changes.
"""

from __future__ import annotations

import hashlib
from io import BytesIO
from pathlib import Path
from typing import Any, Literal

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
from msgspec import Struct

from data.collect.event_log import Position
from data.columns import (
    DESCRIPTION,
    EVENT_ID,
    EVENT_TIME,
    EVENT_TYPE,
    GENRES,
    ITEM,
    KNOWN_TIME,
    RELEASE_TIME,
    SESSION,
    TITLE,
    USER,
    VALUE,
)
from data.files import DataError
from data.times import from_iso

EVENTS, PEOPLE, ITEMS = "events", "people", "items"  # the tables
ANONYMOUS, PURPOSES, TRAITS, RECEIPT = "anonymous_id", "purposes", "traits", "receipt"
# Those fields of an event's context that may serve training, and that are kept as long as the event itself.
CONTEXT = ("device", "os", "app", "network", "orientation", "local_time", "locale", "page")
DAY_FOLDER = "known_date="

_TEXT, _TIME = pa.string(), pa.timestamp("us", tz="UTC")
SCHEMAS = {
    EVENTS: pa.schema(
        {
            EVENT_ID: _TEXT,
            USER: _TEXT,
            ANONYMOUS: _TEXT,
            ITEM: _TEXT,
            EVENT_TIME: _TIME,
            KNOWN_TIME: _TIME,
            EVENT_TYPE: _TEXT,
            VALUE: pa.float64(),
            SESSION: _TEXT,
            "request_id": _TEXT,
            "position": pa.int32(),  # in the list of the answer `request_id`
            **dict.fromkeys(CONTEXT, _TEXT),
            PURPOSES: _TEXT,  # analytics|model_training
            "source": _TEXT,
            RECEIPT: _TEXT,  # position in the event log, such as 0:123
        }
    ),
    PEOPLE: pa.schema(
        {
            EVENT_ID: _TEXT,
            EVENT_TYPE: _TEXT,
            USER: _TEXT,
            ANONYMOUS: _TEXT,
            EVENT_TIME: _TIME,
            KNOWN_TIME: _TIME,
            "previous_id": _TEXT,
            "group_id": _TEXT,
            TRAITS: _TEXT,  # a JSON object
            PURPOSES: _TEXT,
            "source": _TEXT,
            RECEIPT: _TEXT,
        }
    ),
    ITEMS: pa.schema(
        {
            EVENT_ID: _TEXT,
            ITEM: _TEXT,
            EVENT_TIME: _TIME,
            KNOWN_TIME: _TIME,
            TITLE: _TEXT,
            GENRES: _TEXT,  # Drama|War
            DESCRIPTION: _TEXT,
            RELEASE_TIME: _TIME,
            TRAITS: _TEXT,  # a JSON object
            "source": _TEXT,
            RECEIPT: _TEXT,
        }
    ),
}


class LogRange(Struct):
    """The messages of one partition of the event log that a part holds."""

    first: int
    last: int
    last_id: str  # the last one's message id


class PartFile(Struct):
    """A table of a part."""

    rows: int
    sha256: str


class Part(Struct, forbid_unknown_fields=True, kw_only=True):
    """What one part holds: the content of its JSON file.

    Attributes:
        known_until: all that the log held when the part was written, and that became known earlier, is in this part or
            an earlier one. Later parts hold nothing that became known earlier. ISO 8601.
        positions: partition of the event log -> the messages that were read.
        not_included: type -> number of events of types that no table holds. They are in the event log only.
        files: table -> its file.
    """

    version: Literal[1] = 1
    known_date: str
    number: int
    known_until: str
    positions: dict[str, LogRange]
    messages: int
    not_included: dict[str, int]
    files: dict[str, PartFile]

    def path(self, folder: Path, table: str) -> Path:
        """Where one of its tables lies in the folder of partitions."""
        return folder / f"{DAY_FOLDER}{self.known_date}" / f"{table}-{self.number}.parquet"


_DECODER = msgspec.json.Decoder(Part)


def read_parts(folder: Path) -> list[Part]:
    """The parts in a folder, oldest first; none if the folder does not exist. Raises DataError: one is damaged."""
    parts = []
    for path in folder.glob(f"{DAY_FOLDER}*/part-*.json"):
        try:
            part = _DECODER.decode(path.read_bytes())
            from_iso(part.known_until)
        except (OSError, ValueError) as error:  # msgspec's errors are ValueErrors
            raise DataError(f"{path} is damaged: {error}; restore it from a backup") from None
        parts.append(part)
    return sorted(parts, key=lambda part: (part.known_date, part.number))


def written_until(parts: list[Part]) -> int:
    """Until when the parts hold all that became known, in microseconds; 0 without parts."""
    return max((from_iso(part.known_until) for part in parts), default=0)


def read_part(folder: Path, part: Part, table: str, columns: list[str], where: Any = None) -> pa.Table:
    """Columns of a table of a part; an empty table if the part has none. `where` is a filter of pyarrow.

    Raises:
        DataError: the file is missing, or is not the one that was written.
    """
    if table not in part.files:
        return SCHEMAS[table].empty_table().select(columns)
    path = part.path(folder, table)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}; restore it from a backup") from None
    if hashlib.sha256(content).hexdigest() != part.files[table].sha256:
        raise DataError(
            f"{path} is damaged: its hash is not the one in part-{part.number}.json; restore it from a backup"
        )
    return pq.read_table(BytesIO(content), columns=columns, filters=where)


def events_at(folder: Path, position: Position) -> list[str]:
    """The ids of the events of a message of the event log. Raises DataError."""
    found: list[str] = []
    for part in read_parts(folder):
        held = part.positions.get(str(position.partition))
        if held and held.first <= position.offset <= held.last:
            where = [(RECEIPT, "==", str(position))]
            found += read_part(folder, part, EVENTS, [EVENT_ID, RECEIPT], where)[EVENT_ID].to_pylist()
    return found
