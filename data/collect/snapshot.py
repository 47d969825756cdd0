"""Write what the event log gained as Parquet, a partition for each UTC day on which events became known.

A partition is written once its day has ended. Run it once a day; what is written already is never changed.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock, Timeout

from config import files
from config.command import UserError, exits_cleanly
from data.collect import settings
from data.collect.event_log import EventReader, LogError, LoggedMessage, Position
from data.collect.open_log import open_reader
from data.collect.partitions import (
    CONTEXT,
    DAY_FOLDER,
    EVENTS,
    ITEMS,
    PEOPLE,
    SCHEMAS,
    LogRange,
    Part,
    PartFile,
    read_parts,
    written_until,
)
from data.collect.schema import Alias, Context, Event, Group, Identify, Item, ItemEvent, decode_events
from data.columns import DAY
from data.times import EPOCH, now_us, to_iso

ROWS = 50_000  # that memory holds before they are written
LOCK = "snapshot.lock"
# The field of a type that becomes an event's value.
VALUES = {"rating": "value", "play": "progress", "dwell": "seconds", "scroll": "depth", "purchase": "quantity",
          "add": "quantity"}  # fmt: skip
NO_CONTEXT = Context()


def write_snapshot(reader: EventReader, folder: Path, until_us: int) -> list[Part]:
    """Write what the log holds beyond the parts in a folder, and became known before a time; the new parts.

    A part is written whole or not at all: after a kill, the next call goes on from the last one.

    Raises:
        UserError: another process writes there, or the log or a part is damaged.
    """
    files.make_folder(folder)
    with _only_one(folder), _scratch_folder(folder) as scratch:
        parts = read_parts(folder)
        writers: dict[int, _PartWriter] = {}
        rows = 0
        for message, known_us in _new_messages(reader, parts, until_us):
            day = known_us // DAY
            if day not in writers:
                writers[day] = _PartWriter(scratch, day)
            rows += writers[day].add(message, known_us)
            if rows >= ROWS:
                for writer in writers.values():
                    writer.flush()
                rows = 0
        written = []
        for day, writer in sorted(writers.items()):
            number = 1 + sum(part.known_date == writer.known_date for part in parts)
            written.append(writer.commit(folder, number, min((day + 1) * DAY, until_us)))
        return written


def _new_messages(reader: EventReader, parts: list[Part], until_us: int) -> Iterator[tuple[LoggedMessage, int]]:
    """The messages beyond the parts that became known before a time, and when they became known.

    Known times never go back within a partition of the log, nor before the end of the last part: a message that was
    stored late counts as known then. So what was known at a time is the same forever.
    """
    start_us = written_until(parts)
    ends = {int(partition): held for part in parts for partition, held in part.positions.items()}  # the last part's
    latest: dict[int, int] = {}
    for message in reader.read({partition: held.last - 1 for partition, held in ends.items()}):
        partition, offset = message.position
        held = ends.get(partition)
        if held is not None and offset <= held.last:
            if message.message_id != held.last_id:
                raise LogError(
                    f"the event log holds another message at {message.position} than the one that was written to the "
                    "partitions; restore both from one backup"
                )
            continue
        known_us = latest[partition] = max(message.known_us, latest.get(partition, start_us))
        if known_us < until_us:
            yield message, known_us


class _PartWriter:
    """Collects one part in a scratch folder, then moves it to its place."""

    def __init__(self, scratch: Path, day: int) -> None:
        self.known_date = str((EPOCH + timedelta(days=day)).date())
        self._scratch = scratch
        self._rows: dict[str, list[tuple]] = {EVENTS: [], PEOPLE: [], ITEMS: []}
        self._writers: dict[str, pq.ParquetWriter] = {}
        self._counts: Counter[str] = Counter()
        self._positions: dict[str, LogRange] = {}
        self._messages = 0
        self._not_included: Counter[str] = Counter()

    def add(self, message: LoggedMessage, known_us: int) -> int:
        """Add the events of a message; their number."""
        try:
            events = decode_events(message.events)
        except msgspec.MsgspecError as error:
            raise LogError(f"the message at {message.position} of the event log is damaged: {error}") from None
        receipt = message.source, str(message.position)
        for event in events:
            match event:
                case ItemEvent():
                    self._rows[EVENTS].append((*_event_row(event, known_us), *receipt))
                case Identify() | Alias() | Group():
                    self._rows[PEOPLE].append((*_person_row(event, known_us), *receipt))
                case Item():
                    self._rows[ITEMS].append((*_item_row(event, known_us), *receipt))
                case _:
                    self._not_included[_type(event)] += 1
        partition, offset = message.position
        held = self._positions.setdefault(str(partition), LogRange(offset, offset, message.message_id))
        held.last, held.last_id = offset, message.message_id
        self._messages += 1
        return len(events)

    def flush(self) -> None:
        """Write the rows in memory to the scratch folder."""
        for table, rows in self._rows.items():
            if rows:
                schema = SCHEMAS[table]
                columns = zip(*rows, strict=True)
                arrays = [pa.array(column, kind) for column, kind in zip(columns, schema.types, strict=True)]
                if table not in self._writers:
                    self._writers[table] = pq.ParquetWriter(self._path(table), schema, compression="zstd")
                self._writers[table].write_table(pa.table(arrays, schema=schema))
                self._counts[table] += len(rows)
                rows.clear()

    def commit(self, folder: Path, number: int, until_us: int) -> Part:
        """Move the tables to their place, then write the JSON file that makes them a part."""
        self.flush()
        tables = {}
        for table, writer in self._writers.items():
            writer.close()
            files.sync(self._path(table))
            with self._path(table).open("rb") as file:
                tables[table] = PartFile(self._counts[table], hashlib.file_digest(file, "sha256").hexdigest())
        part = Part(
            known_date=self.known_date,
            number=number,
            known_until=to_iso(until_us),
            positions=self._positions,
            messages=self._messages,
            not_included=dict(self._not_included),
            files=tables,
        )
        day_folder = folder / f"{DAY_FOLDER}{self.known_date}"
        files.make_folder(day_folder)
        for table in tables:
            os.replace(self._path(table), part.path(folder, table))
        files.sync(day_folder)
        files.write_bytes(day_folder / f"part-{number}.json", msgspec.json.format(msgspec.json.encode(part)) + b"\n")
        return part

    def _path(self, table: str) -> Path:
        return self._scratch / f"{table}-{self.known_date}.parquet{files.PARTIAL}"


def _event_row(event: ItemEvent, known_us: int) -> tuple:
    """The row of an event about an item, without source and receipt."""
    kind, context = _type(event), event.context or NO_CONTEXT
    value = getattr(event, VALUES[kind]) if kind in VALUES else None
    return (
        event.event_id,
        event.user_id,
        event.anonymous_id,
        event.item_id,
        event.event_time,
        known_us,
        kind,
        value,
        event.session_id,
        event.request_id,
        event.position,
        *(getattr(context, name) for name in CONTEXT),
        "|".join(event.purposes),
    )


def _person_row(event: Identify | Alias | Group, known_us: int) -> tuple:
    """The row of what an event says about a person, without source and receipt."""
    return (
        event.event_id,
        _type(event),
        event.user_id,
        event.anonymous_id,
        event.event_time,
        known_us,
        event.previous_id if isinstance(event, Alias) else None,
        event.group_id if isinstance(event, Group) else None,
        None if isinstance(event, Alias) else msgspec.json.encode(event.traits).decode(),
        "|".join(event.purposes),
    )


def _item_row(event: Item, known_us: int) -> tuple:
    """The row of what the catalog says about an item, without source and receipt."""
    genres = None if event.genres is None else "|".join(genre.replace("|", "/") for genre in event.genres)
    return (
        event.event_id,
        event.item_id,
        event.event_time,
        known_us,
        event.title,
        genres,
        event.description,
        event.release_time,
        msgspec.json.encode(event.traits).decode(),
    )


def _type(event: Event) -> str:
    return str(event.__struct_config__.tag)


@contextmanager
def _only_one(folder: Path) -> Iterator[None]:
    lock = FileLock(folder.parent / LOCK)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        raise UserError(f"another process writes the partitions in {folder}") from None
    try:
        yield
    finally:
        lock.release()


@contextmanager
def _scratch_folder(folder: Path) -> Iterator[Path]:
    """An empty folder on the same disk, deleted at the end. Deletes what a killed process left there."""
    scratch = folder.with_name(f".{folder.name}{files.PARTIAL}")
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir()
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def describe(parts: Sequence[Part], folder: Path) -> str:
    """What was written, a line for each part."""
    lines = []
    for part in parts:
        rows = {table: file.rows for table, file in part.files.items()}
        positions = ", ".join(
            f"{Position(int(partition), held.first)} to {Position(int(partition), held.last)}"
            for partition, held in part.positions.items()
        )
        lines.append(
            f"{part.known_date} part {part.number}: {rows.get(EVENTS, 0):,} events, {rows.get(PEOPLE, 0):,} about people, "
            f"from {part.messages:,} messages at {positions}"
        )
    return "\n".join([*lines, f"-> {folder}"]) if lines else f"nothing new for {folder}"


@exits_cleanly
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m data.collect.snapshot", description=__doc__)
    parser.add_argument(
        "--today", action="store_true", help="also write what came today until now, as a part of its own"
    )
    arguments = parser.parse_args(argv)
    collect, now = settings.load(), now_us()
    until_us = now if arguments.today else now // DAY * DAY
    parts = write_snapshot(open_reader(collect), collect.partitions, until_us)
    print(describe(parts, collect.partitions))
    return 0


if __name__ == "__main__":
    sys.exit(main())
