"""The embedded event log: on disk before `append` answers, with an exact check for repeated message ids.

One SQLite file holds the messages of one UTC day (WAL, synchronous FULL), a row per batch. One thread writes: it takes
all batches that wait, commits them together, and then answers each (group commit).
"""

from __future__ import annotations

import logging
import queue
import sqlite3
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import NamedTuple

import msgspec
from filelock import FileLock, Timeout

from config.files import make_folder, sync
from data.collect.event_log import (
    LogError,
    LogFull,
    LoggedMessage,
    LogUnavailable,
    NewMessage,
    Outcome,
    Position,
    Receipt,
)
from data.collect.message_index import CATCH_UP_MESSAGES, IndexEntry, MessageIndex, index_key
from data.columns import DAY

log = logging.getLogger(__name__)

WAITING_BATCHES = 1_000  # that may wait for the disk; more are refused
GROUP_BATCHES = 256  # that are committed together
LOCK_FILE, INDEX_FOLDER, FILES, NEW_FILE = "writer.lock", "message-ids", "events-*.db", "new.db"
PARTITION = 0
EPOCH = date(1970, 1, 1)
LOCK_SECONDS = 10  # a reader waits this long for the writer's checkpoint


class _Message(NamedTuple):
    """A message within a row."""

    message_id: str
    fingerprint: bytes
    events: bytes


class _Row(NamedTuple):
    """A batch as a day's file holds it."""

    offset: int  # of its first message
    known_us: int
    source: str
    messages: list[_Message]


@dataclass(frozen=True)
class _Batch:
    known_us: int
    source: str
    messages: Sequence[NewMessage]
    answer: Future[list[Receipt]]


class SqliteEventLog:
    """The log in one folder, for the one process that writes it. Others read it with `SqliteLogReader`.

    Args:
        retention_days: days that ended longer ago are deleted when a new day begins; None: never.

    Raises:
        LogError: another process writes this log.
    """

    def __init__(self, folder: Path, retention_days: int | None = None) -> None:
        self._folder, self._retention_days = folder, retention_days
        self._cleaned_day: int | None = None
        make_folder(folder)
        self._lock = FileLock(folder / LOCK_FILE, thread_local=False)  # opened and closed by any thread
        try:
            self._lock.acquire(blocking=False)
        except Timeout:
            raise LogError(f"another process writes the event log in {folder}") from None
        days = _days(folder)
        self._file = _DayFile.open(folder, days[-1]) if days else None
        self._first, self._end = _offsets(folder)
        self._index = MessageIndex(folder / INDEX_FOLDER)
        if self._indexed > self._end:  # the log was restored to an earlier state, the index was not
            self._index.clear()
        self._update_index()
        self._waiting: queue.Queue[_Batch | None] = queue.Queue(WAITING_BATCHES)
        self._writer = threading.Thread(target=self._write_batches, name="event log", daemon=True)
        self._writer.start()

    @property
    def end(self) -> list[Position]:
        """See `EventLog.end`. Offset 0 of an empty log."""
        return [Position(PARTITION, self._end)]

    @property
    def _indexed(self) -> int:
        """The offset up to which the index is complete."""
        return self._index.ends.get(PARTITION, 0)

    def append(self, known_us: int, source: str, messages: Sequence[NewMessage]) -> Future[list[Receipt]]:
        """See `EventLog.append`."""
        batch = _Batch(known_us, source, messages, Future())
        batch.answer.set_running_or_notify_cancel()  # so that a sender that goes away cannot cancel it
        try:
            self._waiting.put_nowait(batch)
        except queue.Full:
            raise LogFull(f"{WAITING_BATCHES} batches wait for the disk") from None
        return batch.answer

    def close(self) -> None:
        """See `EventLog.close`."""
        self._waiting.put(None)
        self._writer.join()
        self._index.close()
        if self._file:
            self._file.close()
        self._lock.release()

    def _write_batches(self) -> None:
        while (batch := self._waiting.get()) is not None:
            group = [batch]
            while len(group) < GROUP_BATCHES and self._waiting.qsize():
                if (batch := self._waiting.get()) is None:
                    self._waiting.put(None)
                    break
                group.append(batch)
            self._write_group(group)

    def _write_group(self, group: list[_Batch]) -> None:
        """Write a group in one transaction, then answer its batches."""
        try:
            self._update_index()
            receipts, rows, entries = self._sort_out(group)
            if rows:
                self._day_file(max(row.known_us for row in rows) // DAY).write(rows)
        except Exception as error:  # a full disk, for instance: each sender learns of it, and may send again
            log.exception("the event log could not store a group of %d batches", len(group))
            for batch in group:
                batch.answer.set_exception(LogUnavailable(f"the event log cannot be written: {error}"))
            return
        self._end += len(entries)
        try:
            self._index.add(entries, {PARTITION: self._end})
        except Exception:  # the messages are safe; the next group waits until the index knows them
            log.exception("the index of message ids could not be written; it is derived from the log again")
        for batch, of_batch in zip(group, receipts, strict=True):
            batch.answer.set_result(of_batch)
        self._delete_old_days()

    def _update_index(self) -> None:
        """Add to the index what the log holds beyond it."""
        if self._indexed == self._end:
            return
        self._index.reopen()  # after an error, such as on a full disk, RocksDB refuses writes until then
        entries: dict[bytes, IndexEntry] = {}
        end = self._indexed
        for row in _rows(self._folder, end):
            for offset, message in enumerate(row.messages, row.offset):
                entries[index_key(message.message_id)] = IndexEntry(Position(PARTITION, offset), message.fingerprint)
                end = offset
            if len(entries) >= CATCH_UP_MESSAGES:
                self._index.add(entries, {PARTITION: end})
                entries = {}
        self._index.add(entries, {PARTITION: end})

    def _sort_out(self, group: list[_Batch]) -> tuple[list[list[Receipt]], list[_Row], dict[bytes, IndexEntry]]:
        """The receipts of each batch, the rows to write, and the new entries of the index."""
        keys = [[index_key(message.message_id) for message in batch.messages] for batch in group]
        known = self._index.find([key for of_batch in keys for key in of_batch])
        offset, receipts, rows = self._end, [], []
        new: dict[bytes, IndexEntry] = {}
        for batch, keys_of_batch in zip(group, keys, strict=True):
            of_batch: list[Receipt] = []
            kept: list[_Message] = []
            for message, key in zip(batch.messages, keys_of_batch, strict=True):
                entry = new.get(key) or known.get(key)
                if entry is None or entry.position.offset < self._first:  # that one was deleted
                    offset += 1
                    position = Position(PARTITION, offset)
                    new[key] = IndexEntry(position, message.fingerprint)
                    kept.append(_Message(message.message_id, message.fingerprint, message.events))
                    of_batch.append(Receipt(Outcome.STORED, position))
                else:
                    outcome = Outcome.DUPLICATE if entry.fingerprint == message.fingerprint else Outcome.CONFLICT
                    of_batch.append(Receipt(outcome, entry.position))
            if kept:
                rows.append(_Row(offset - len(kept) + 1, batch.known_us, batch.source, kept))
            receipts.append(of_batch)
        return receipts, rows, new

    def _day_file(self, day: int) -> _DayFile:
        """The file to write to. A clock that was set back goes on in the newest day."""
        if self._file is None or day > self._file.day:
            new = _DayFile.create(self._folder, day)
            if self._file:
                self._file.close()
            self._file = new
        return self._file

    def _delete_old_days(self) -> None:
        """Once for each newest day, delete the files of days that are too old, and their message ids from the index."""
        if self._retention_days is None or self._file is None or self._file.day == self._cleaned_day:
            return
        self._cleaned_day = self._file.day
        try:
            for day in _days(self._folder):
                if day >= self._file.day - self._retention_days:
                    break
                with _DayFile.open(self._folder, day, read_only=True) as old:
                    for row in old.rows(0):
                        self._index.remove([index_key(message.message_id) for message in row.messages])
                for path in self._folder.glob(f"{_name(day)}*"):
                    path.unlink()
                log.info("deleted %s: its events are older than %d days", _name(day), self._retention_days)
            self._first, _ = _offsets(self._folder)
        except Exception:
            log.exception("events that are too old could not be deleted; the next start tries again")


class SqliteLogReader:
    """Reads the log in a folder, also while another process writes it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def read(self, after: Mapping[int, int] | None = None) -> Iterator[LoggedMessage]:
        """See `EventReader.read`."""
        last = (after or {}).get(PARTITION, 0)
        try:
            for row in _rows(self._folder, last):
                for offset, message in enumerate(row.messages, row.offset):
                    if offset > last:
                        position = Position(PARTITION, offset)
                        yield LoggedMessage(position, row.known_us, row.source, message.message_id, message.events)
        except (sqlite3.Error, msgspec.MsgspecError) as error:
            raise LogError(f"the event log in {self._folder} cannot be read: {error}") from None


class _DayFile:
    """The SQLite file of one day."""

    def __init__(self, day: int, database: sqlite3.Connection) -> None:
        self.day, self._database = day, database

    @classmethod
    def create(cls, folder: Path, day: int) -> _DayFile:
        """Create the file whole, so that a kill leaves none without its table, and flush its name to disk."""
        database = _connect(folder / NEW_FILE, "rwc")
        database.execute("PRAGMA journal_mode = WAL")
        database.execute(
            "CREATE TABLE IF NOT EXISTS batches"
            " (first INTEGER PRIMARY KEY, known_us INTEGER NOT NULL, source TEXT NOT NULL, count INTEGER NOT NULL,"
            " messages BLOB NOT NULL) STRICT"
        )
        database.close()
        (folder / NEW_FILE).rename(folder / _name(day))
        sync(folder)
        return cls.open(folder, day)

    @classmethod
    def open(cls, folder: Path, day: int, read_only: bool = False) -> _DayFile:
        return cls(day, _connect(folder / _name(day), "ro" if read_only else "rw"))

    def __enter__(self) -> _DayFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def write(self, rows: Sequence[_Row]) -> None:
        """Write rows in one transaction, which is on disk afterwards."""
        values = [
            (row.offset, row.known_us, row.source, len(row.messages), msgspec.msgpack.encode(row.messages))
            for row in rows
        ]
        with self._database:
            self._database.executemany("INSERT INTO batches VALUES (?, ?, ?, ?, ?)", values)

    def rows(self, after: int) -> Iterator[_Row]:
        """The batches with a message after an offset, in order."""
        rows = self._database.execute(
            "SELECT first, known_us, source, messages FROM batches WHERE first + count > ? + 1 ORDER BY first",
            (after,),
        )
        for first, known_us, source, packed in rows:
            yield _Row(first, known_us, source, msgspec.msgpack.decode(packed, type=list[_Message]))

    def first(self) -> int:
        """The offset of the first message; 0 of an empty file."""
        return self._database.execute("SELECT coalesce(min(first), 0) FROM batches").fetchone()[0]

    def end(self) -> int:
        """The offset of the last message; 0 of an empty file."""
        return self._database.execute("SELECT coalesce(max(first + count) - 1, 0) FROM batches").fetchone()[0]

    def close(self) -> None:
        self._database.close()


def _rows(folder: Path, after: int) -> Iterator[_Row]:
    """The batches with a message after an offset, in order, as far as the log goes now."""
    days = _days(folder)
    for number, day in enumerate(days):
        try:
            file = _DayFile.open(folder, day, read_only=True)
        except sqlite3.OperationalError:
            if (folder / _name(day)).exists():
                raise
            continue  # it was deleted meanwhile, as too old
        with file:
            if number == len(days) - 1 or file.end() > after:
                yield from file.rows(after)


def _offsets(folder: Path) -> tuple[int, int]:
    """The offsets of the first and of the last message that the log holds; 1 and 0 of an empty log."""
    first, last = 1, 0
    for day in reversed(_days(folder)):
        with _DayFile.open(folder, day, read_only=True) as file:
            if file.end():
                first, last = file.first(), last or file.end()
    return first, last


def _connect(path: Path, mode: str) -> sqlite3.Connection:
    database = sqlite3.connect(
        f"{path.resolve().as_uri()}?mode={mode}", LOCK_SECONDS, uri=True, check_same_thread=False
    )
    database.execute("PRAGMA synchronous = FULL")
    return database


def _days(folder: Path) -> list[int]:
    """The days that have a file, as numbers since 1970, oldest first."""
    return sorted((date.fromisoformat(path.stem.removeprefix("events-")) - EPOCH).days for path in folder.glob(FILES))


def _name(day: int) -> str:
    return f"events-{EPOCH + timedelta(days=day)}.db"
