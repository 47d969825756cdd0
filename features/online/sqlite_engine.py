"""Bytes by key in one SQLite file: the embedded default, which needs no server."""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from features.online.errors import StoreUnavailable
from features.online.record_store import Swap

TABLE = "CREATE TABLE IF NOT EXISTS records (key BLOB PRIMARY KEY, value BLOB NOT NULL)"
MOST_KEYS = 10_000  # of one statement; SQLite takes 32,766


class SqliteEngine:
    """One connection, which threads take in turns. Readers never wait for a writer (WAL).

    Args:
        path: the file; made, readable by its owner only, where there is none.
        timeout_s: how long a writer waits for another.
    """

    def __init__(self, path: Path, timeout_s: float) -> None:
        self.place = f"sqlite:///{path}"
        self._turn = threading.Lock()
        with self._answering():
            path.parent.mkdir(parents=True, exist_ok=True)
            os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))  # profiles are personal data
            self._database = sqlite3.connect(path, timeout_s, isolation_level=None, check_same_thread=False)
            self._database.execute("PRAGMA journal_mode = WAL")
            self._database.execute("PRAGMA synchronous = FULL")  # what is acknowledged outlives a power cut, too
            self._database.execute(TABLE)

    def get(self, keys: Sequence[bytes]) -> list[bytes | None]:
        held: dict[bytes, bytes] = {}
        with self._answering():
            for begin in range(0, len(keys), MOST_KEYS):
                part = keys[begin : begin + MOST_KEYS]
                marks = ",".join("?" * len(part))
                held.update(self._database.execute(f"SELECT key, value FROM records WHERE key IN ({marks})", part))
        return [held.get(key) for key in keys]

    def swap(self, swaps: Sequence[Swap]) -> list[bool]:
        with self._answering():
            self._database.execute("BEGIN IMMEDIATE")  # not later: a reader that turns writer could be refused
            try:
                done = [self._swap(each) for each in swaps]
                self._database.execute("COMMIT")
            except BaseException:
                self._database.execute("ROLLBACK")
                raise
        return done

    def ping(self) -> None:
        self.get([b""])

    def close(self) -> None:
        with self._turn:
            self._database.close()

    def _swap(self, swap: Swap) -> bool:
        key, old, new = swap
        run = self._database.execute
        if old is None:
            return run("INSERT OR IGNORE INTO records VALUES (?, ?)", (key, new)).rowcount == 1
        if new is None:
            return run("DELETE FROM records WHERE key = ? AND value = ?", (key, old)).rowcount == 1
        return run("UPDATE records SET value = ? WHERE key = ? AND value = ?", (new, key, old)).rowcount == 1

    @contextmanager
    def _answering(self) -> Iterator[None]:
        with self._turn:
            try:
                yield
            except (sqlite3.Error, OSError) as error:
                raise StoreUnavailable(f"{self.place}: {error}") from error
