"""Rejected events: kept as they came, with the reason and the field, to be searched and sent again after a fix."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from config.files import make_folder

FILE = "rejected.db"
LOCK_SECONDS = 60
COLUMNS = ("number", "known_us", "source", "reason", "field", "message", "message_id", "body", "replayed_us")


class RejectedEvent(NamedTuple):
    """One event that was not accepted."""

    number: int  # 1, 2, ...; 0 before it is stored
    known_us: int  # when it came
    source: str  # the name of the write key
    reason: str  # schema, size, time, conflict ...
    field: str | None
    message: str  # what is wrong and what to do
    message_id: str | None
    body: bytes  # as it came
    replayed_us: int | None = None  # when it was accepted after all


class RejectedStore:
    """The rejected events of one folder, in SQLite; any number of processes may use it."""

    def __init__(self, folder: Path) -> None:
        make_folder(folder)
        self._database = sqlite3.connect(folder / FILE, timeout=LOCK_SECONDS, check_same_thread=False)
        self._database.execute("PRAGMA journal_mode = WAL")
        self._database.execute("PRAGMA synchronous = FULL")
        self._database.execute(
            "CREATE TABLE IF NOT EXISTS rejected"
            " (number INTEGER PRIMARY KEY AUTOINCREMENT, known_us INTEGER NOT NULL, source TEXT NOT NULL,"
            " reason TEXT NOT NULL, field TEXT, message TEXT NOT NULL, message_id TEXT, body BLOB NOT NULL,"
            " replayed_us INTEGER) STRICT"
        )

    def add(self, events: Iterable[RejectedEvent]) -> None:
        """Store events; they are on disk afterwards."""
        places = ", ".join("?" * (len(COLUMNS) - 1))
        with self._database:
            self._database.executemany(
                f"INSERT INTO rejected ({', '.join(COLUMNS[1:])}) VALUES ({places})", (event[1:] for event in events)
            )

    def search(
        self, reason: str | None = None, source: str | None = None, text: str | None = None, open_only: bool = False
    ) -> Iterator[RejectedEvent]:
        """The events with this reason, of this source, with this text in the message or the body; newest first."""
        clauses, values = ["1"], []
        for clause, value in (("reason = ?", reason), ("source = ?", source)):
            if value is not None:
                clauses.append(clause)
                values.append(value)
        if text is not None:
            clauses.append("(instr(message, ?) OR instr(CAST(body AS TEXT), ?))")
            values += [text, text]
        if open_only:
            clauses.append("replayed_us IS NULL")
        query = f"SELECT {', '.join(COLUMNS)} FROM rejected WHERE {' AND '.join(clauses)} ORDER BY number DESC"
        yield from map(RejectedEvent._make, self._database.execute(query, values))

    def counts(self) -> list[tuple[str, str | None, int]]:
        """(reason, field, number of events that were not replayed), most frequent first."""
        return self._database.execute(
            "SELECT reason, field, count(*) FROM rejected WHERE replayed_us IS NULL GROUP BY 1, 2 ORDER BY 3 DESC"
        ).fetchall()

    def mark_replayed(self, numbers: Sequence[int], now_us: int) -> None:
        """Note that events were accepted after all."""
        with self._database:
            self._database.executemany(
                "UPDATE rejected SET replayed_us = ? WHERE number = ?", ((now_us, number) for number in numbers)
            )

    def drop_before(self, known_us: int) -> int:
        """Delete what came before a moment; the number of events deleted."""
        with self._database:
            return self._database.execute("DELETE FROM rejected WHERE known_us < ?", (known_us,)).rowcount

    def close(self) -> None:
        self._database.close()
