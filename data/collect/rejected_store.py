"""Rejected events: kept as they came, with the reason and the field, to be searched, and replayed after a fix.

The collector replays: it looks here for the events that a command marked. So a request needs no connection to
the collector, survives both processes, and is as safe as the folder.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from config.files import make_folder
from data.collect.messages import MAX_EVENT_BYTES, Kind

FILE = "rejected.db"
LOCK_SECONDS = 60
MAX_JOURNAL_BYTES = 16 << 20
OLDEST_PART = 20  # one part in this many of the events is dropped at once where space is short


class RejectedEvent(NamedTuple):
    """One event that was not accepted."""

    number: int  # 1, 2, ...; 0 before it is stored
    known_us: int  # when it came
    source: str  # the name of the write key's source
    reason: str
    field: str | None
    message: str  # what is wrong and what to do
    message_id: str  # its own, or the one that it got here
    size: int  # bytes, as it came
    body: bytes  # as it came, without a write key; the first MAX_EVENT_BYTES
    sent_us: int | None  # these four: see `messages.Arrival` and `messages.Reading`
    kind: Kind | None
    context: bytes
    purposes: str  # comma-separated
    replayed_us: int | None = None  # when it was accepted after all

    @property
    def is_whole(self) -> bool:
        """Whether all of it was kept, so that it can be replayed."""
        return self.size <= MAX_EVENT_BYTES


class Search(NamedTuple):
    """Which events: with this reason, of this source, with this text in the message or the body, since a time."""

    reason: str | None = None
    source: str | None = None
    text: str | None = None
    since_us: int | None = None

    def where(self) -> tuple[str, list[str | int]]:
        """A condition in SQL, and its values."""
        clauses: list[str] = ["1"]
        values: list[str | int] = []
        for clause, value in (
            ("reason = ?", self.reason),
            ("source = ?", self.source),
            ("instr(message || ' ' || CAST(body AS TEXT), ?)", self.text),
            ("known_us >= ?", self.since_us),
        ):
            if value is not None:
                clauses.append(clause)
                values.append(value)
        return " AND ".join(clauses), values


class Outcome(NamedTuple):
    """What became of a replayed event: accepted, or rejected with a reason, a field and a message."""

    number: int
    rejection: tuple[str, str | None, str] | None = None


class Progress(NamedTuple):
    """How far a replay is."""

    accepted: int
    waiting: int


ALL = Search()
# Bodies have a table of their own, so that a note on an event does not write its body again.
TABLES = """
CREATE TABLE IF NOT EXISTS events
    (number INTEGER PRIMARY KEY AUTOINCREMENT, known_us INTEGER NOT NULL, source TEXT NOT NULL, reason TEXT NOT NULL,
    field TEXT, message TEXT NOT NULL, message_id TEXT NOT NULL, size INTEGER NOT NULL, sent_us INTEGER, kind TEXT,
    context BLOB NOT NULL, purposes TEXT NOT NULL, replayed_us INTEGER, requested_us INTEGER) STRICT;
CREATE TABLE IF NOT EXISTS bodies
    (number INTEGER PRIMARY KEY REFERENCES events ON DELETE CASCADE, body BLOB NOT NULL) STRICT;
CREATE INDEX IF NOT EXISTS requested ON events (replayed_us, number, requested_us) WHERE requested_us IS NOT NULL;
"""
COLUMNS = [name for name in RejectedEvent._fields if name not in ("number", "body")]
INSERT = f"INSERT INTO events ({', '.join(COLUMNS)}) VALUES ({', '.join(f':{name}' for name in COLUMNS)})"
SELECT = f"SELECT {', '.join(RejectedEvent._fields)} FROM events JOIN bodies USING (number)"


class RejectedStore:
    """The rejected events of one folder, in SQLite; any number of threads and processes may use it.

    Args:
        max_bytes: of the events kept; the oldest are dropped where there are more. None: no limit.
        on_drop: called with the number of events that were dropped for that.
    """

    def __init__(
        self, folder: Path, max_bytes: int | None = None, on_drop: Callable[[int], None] = lambda count: None
    ) -> None:
        make_folder(folder)
        self._max_bytes, self._on_drop = max_bytes, on_drop
        self._lock = threading.Lock()  # one connection, one transaction at a time
        self._database = sqlite3.connect(folder / FILE, timeout=LOCK_SECONDS, check_same_thread=False)
        self._database.execute("PRAGMA journal_mode = WAL")
        self._database.execute("PRAGMA synchronous = FULL")
        self._database.execute(f"PRAGMA journal_size_limit = {MAX_JOURNAL_BYTES}")  # once it is checkpointed
        self._database.execute("PRAGMA foreign_keys = ON")
        self._database.executescript(TABLES)

    def add(self, events: Iterable[RejectedEvent]) -> None:
        """Store events; they are on disk afterwards."""
        with self._transaction() as database:
            for event in events:
                number = database.execute(INSERT, event._asdict()).lastrowid
                database.execute("INSERT INTO bodies VALUES (?, ?)", (number, event.body))
            self._make_room(database)

    def search(self, search: Search = ALL, limit: int | None = None) -> list[RejectedEvent]:
        """The events that fit, newest first."""
        condition, values = search.where()
        query = f"{SELECT} WHERE {condition} ORDER BY number DESC LIMIT ?"
        return self._select(query, [*values, -1 if limit is None else limit])

    def find(self, number: int) -> RejectedEvent | None:
        """The event with this number; None if there is none."""
        found = self._select(f"{SELECT} WHERE number = ?", [number])
        return found[0] if found else None

    def counts(self) -> list[tuple[str, str | None, int, int]]:
        """(reason, field, events that were not replayed, number of the newest), most frequent first."""
        query = (
            "SELECT reason, field, count(*), max(number) FROM events WHERE replayed_us IS NULL"
            " GROUP BY reason, field ORDER BY 3 DESC"
        )
        with self._lock:
            return self._database.execute(query).fetchall()

    def request_replay(self, search: Search, now_us: int) -> int:
        """Ask the collector to replay the events that fit, are whole and were not replayed; how many they are.

        `now_us` names the request for `progress`.
        """
        condition, values = search.where()
        with self._transaction() as database:
            return database.execute(
                "UPDATE events SET requested_us = ? WHERE replayed_us IS NULL AND size <= ? AND number IN"
                f" (SELECT number FROM events JOIN bodies USING (number) WHERE {condition})",
                [now_us, MAX_EVENT_BYTES, *values],
            ).rowcount

    def progress(self, requested_us: int) -> Progress:
        """How far a requested replay is."""
        query = "SELECT count(replayed_us), count(*) - count(replayed_us) FROM events WHERE requested_us = ?"
        with self._lock:
            return Progress(*self._database.execute(query, [requested_us]).fetchone())

    def waiting(self, limit: int) -> list[RejectedEvent]:
        """The oldest events whose replay was requested."""
        return self._select(
            f"{SELECT} WHERE requested_us IS NOT NULL AND replayed_us IS NULL ORDER BY number LIMIT ?", [limit]
        )

    def settle(self, outcomes: Sequence[Outcome], now_us: int) -> None:
        """Note what became of replayed events. What was rejected again has its new reason."""
        with self._transaction() as database:
            for number, rejection in outcomes:
                if rejection is None:
                    database.execute("UPDATE events SET replayed_us = ? WHERE number = ?", (now_us, number))
                else:
                    database.execute(
                        "UPDATE events SET reason = ?, field = ?, message = ?, requested_us = NULL WHERE number = ?",
                        (*rejection, number),
                    )

    def drop_before(self, known_us: int) -> int:
        """Delete what came before a moment; the number of events deleted."""
        with self._transaction() as database:
            return database.execute("DELETE FROM events WHERE known_us < ?", (known_us,)).rowcount

    def close(self) -> None:
        with self._lock:
            self._database.close()

    def _make_room(self, database: sqlite3.Connection) -> None:
        """Drop the oldest events while there are too many. SQLite writes to their pages again: the file does not grow."""
        while self._max_bytes is not None and self._used_bytes(database) > self._max_bytes:
            first, last = database.execute("SELECT min(number), max(number) FROM events").fetchone()
            if first is None:
                break
            oldest = first + (last - first) // OLDEST_PART
            self._on_drop(database.execute("DELETE FROM events WHERE number <= ?", (oldest,)).rowcount)

    @staticmethod
    def _used_bytes(database: sqlite3.Connection) -> int:
        pages, free, size = (
            database.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "freelist_count", "page_size")
        )
        return (pages - free) * size

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._lock, self._database:
            yield self._database

    def _select(self, query: str, values: Sequence[str | int]) -> list[RejectedEvent]:
        with self._lock:
            return [RejectedEvent._make(row) for row in self._database.execute(query, values)]
