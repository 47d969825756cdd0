"""Bytes by key in Redis: the store at scale. Each method is one round trip; hiredis parses where installed."""

from __future__ import annotations

import hashlib
import os
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import cast
from urllib.parse import urlsplit

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from features.online.errors import StoreUnavailable
from features.online.key_value_store import Swap

# The digest stands for the value that must be there, which so need not travel again.
SWAP = """
local held = redis.call('GET', KEYS[1])
if (held and redis.sha1hex(held) or '') ~= ARGV[1] then return 0 end
if ARGV[2] then redis.call('SET', KEYS[1], ARGV[2]) else redis.call('DEL', KEYS[1]) end
return 1
"""


class RedisEngine:
    """One pool of connections, safe to share among threads.

    Args:
        url: redis://, rediss:// (TLS) or unix://, with credentials where the server wants them.
        timeout_s: the longest wait for a connection, and for an answer.
        single: keep one connection instead, for one thread that is in a hurry: a pool asks the socket of a connection
            each time it gives it out, whether the server has closed it.

    Raises:
        StoreUnavailable: of a single connection, which is made here.
    """

    def __init__(self, url: str, timeout_s: float, single: bool = False) -> None:
        parts = urlsplit(url)
        self.place = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
        # Once more where a connection broke, since an idle one may have been closed; never after a timeout, which
        # would make the wait twice as long. The library's own default backs off for seconds.
        again = Retry(NoBackoff(), 1, supported_errors=(redis.ConnectionError,))
        waits = {"socket_timeout": timeout_s, "socket_connect_timeout": timeout_s}
        with self._answering():
            self._redis = redis.Redis.from_url(
                url, **waits, retry=again, retry_on_timeout=False, single_connection_client=single
            )

    def get(self, keys: Sequence[bytes]) -> list[bytes | None]:
        with self._answering():
            return cast(list[bytes | None], self._redis.mget(keys))

    def swap(self, swaps: Sequence[Swap]) -> list[bool]:
        with self._answering(), self._redis.pipeline(transaction=False) as pipeline:
            for key, old, new in swaps:
                pipeline.eval(SWAP, 1, key, _digest(old), *([] if new is None else [new]))
            return [bool(done) for done in pipeline.execute()]

    def ping(self) -> None:
        with self._answering():
            self._redis.ping()

    def close(self) -> None:
        self._redis.close()

    @contextmanager
    def _answering(self) -> Iterator[None]:
        try:
            yield
        except (redis.RedisError, OSError) as error:
            raise StoreUnavailable(f"{self.place}: {error}") from error


def _digest(value: bytes | None) -> str:
    return "" if value is None else hashlib.sha1(value, usedforsecurity=False).hexdigest()


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
