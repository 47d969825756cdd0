"""Connect to the online store that the environment names, and its two built-in engines: SQLite and Redis.

Settings are environment variables, read without pydantic, which the serving worker does not have.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from config.paths import online_store
from config.redact import without_credentials
from features.online.errors import StoreAbsent, StoreError, StoreUnavailable
from features.online.store import Engine, ProfileStore, Swap

STORE_VARIABLE = "TIDEGATE_STORE"
READ_MS_VARIABLE = "TIDEGATE_STORE_READ_MS"
WRITE_MS_VARIABLE = "TIDEGATE_STORE_WRITE_MS"
SQLITE_SCHEME = "sqlite:///"
REDIS_SCHEMES = ("redis://", "rediss://", "unix://")
FEAST_SCHEMES = ("feast:///", "feast+http://", "feast+https://")

EngineFactory = Callable[[str, float], Engine]  # of a Feast URL and a timeout in seconds


@dataclass(frozen=True)
class StoreSettings:
    """Settings from the environment. An empty variable counts as unset.

    Attributes:
        store: TIDEGATE_STORE: sqlite:///path (relative to the working directory), a Redis URL, or a Feast URL:
            feast:///folder of a feature repository to write, feast+http://host:port of a feature server to read.
        read_ms: TIDEGATE_STORE_READ_MS: how long a request may wait for the store.
        write_ms: TIDEGATE_STORE_WRITE_MS: how long a writer may wait.
    """

    store: str = field(default_factory=online_store)
    read_ms: float = 100
    write_ms: float = 5000


def read_settings(environment: Mapping[str, str] = os.environ) -> StoreSettings:
    """Read the environment. Raises StoreError, naming the variable, its value and what was expected."""
    url = environment.get(STORE_VARIABLE) or online_store()
    if not url.startswith((SQLITE_SCHEME, *REDIS_SCHEMES, *FEAST_SCHEMES)):
        scheme = url.partition("://")[0][:20]  # the rest may contain a password
        raise StoreError(
            f"{STORE_VARIABLE} begins with {scheme!r}; expected sqlite:///path, redis://, rediss://, unix:// or feast"
        )
    return StoreSettings(
        url,
        _milliseconds(environment, READ_MS_VARIABLE, StoreSettings.read_ms),
        _milliseconds(environment, WRITE_MS_VARIABLE, StoreSettings.write_ms),
    )


def _milliseconds(environment: Mapping[str, str], name: str, default: float) -> float:
    text = environment.get(name) or str(default)
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 1 <= value <= 600_000:  # also refuses NaN
        raise StoreError(f"{name} is {text!r}; expected milliseconds from 1 to 600000")
    return value


def connect(
    namespace: str,
    settings: StoreSettings,
    writing: bool = False,
    open_feast: EngineFactory | None = None,
    single: bool = False,
) -> ProfileStore:
    """Open the store of a dataset, the namespace; `writing` uses the timeout of a writer.

    Args:
        open_feast: opens a Feast URL. The worker cannot, since it does not have Feast's dependencies.
        single: keep a single connection for a single thread; see `RedisEngine`.

    Raises:
        StoreUnavailable: SQLite's file cannot be opened. Redis is contacted at the first call, unless `single` is set.
        StoreError: the URL is malformed, or is Feast's and `open_feast` is None.
    """
    url, timeout_s = settings.store, (settings.write_ms if writing else settings.read_ms) / 1000
    engine: Engine
    if url.startswith(SQLITE_SCHEME):
        engine = SqliteEngine(Path(url.removeprefix(SQLITE_SCHEME)), timeout_s)
    elif not url.startswith(FEAST_SCHEMES):
        engine = RedisEngine(url, timeout_s, single)
    elif open_feast is not None:
        engine = open_feast(url, timeout_s)
    else:
        raise StoreError(
            f"{STORE_VARIABLE} is a Feast URL, which this process cannot open; writers, batch jobs and the edge can"
        )
    return ProfileStore(engine, namespace)


def connect_to_read(
    namespace: str, settings: StoreSettings, open_feast: EngineFactory | None = None, single: bool = False
) -> ProfileStore:
    """Open the store without creating it: an empty new file would look like a store that lost its data.

    Raises StoreAbsent if the embedded store has not been created.
    """
    path = settings.store.removeprefix(SQLITE_SCHEME)
    if path != settings.store and not Path(path).exists():
        raise StoreAbsent(f"{settings.store} does not exist; run features.materialize")
    return connect(namespace, settings, open_feast=open_feast, single=single)


class SqliteEngine:
    """An engine on one SQLite connection that threads share. Readers never wait for a writer (WAL).

    The file is created if missing, readable by its owner only. A writer waits up to `timeout_s` for another.
    """

    CREATE_TABLE = "CREATE TABLE IF NOT EXISTS records (key BLOB PRIMARY KEY, value BLOB NOT NULL)"
    MAX_KEYS = 10_000  # per statement; SQLite allows 32,766

    def __init__(self, path: Path, timeout_s: float) -> None:
        self.location = f"{SQLITE_SCHEME}{path}"
        self._lock = threading.Lock()
        with self._locked():
            path.parent.mkdir(parents=True, exist_ok=True)
            os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))  # profiles are personal data
            self._database = sqlite3.connect(path, timeout_s, isolation_level=None, check_same_thread=False)
            self._database.execute("PRAGMA journal_mode = WAL")
            self._database.execute("PRAGMA synchronous = FULL")  # acknowledged writes survive a power failure
            self._database.execute(self.CREATE_TABLE)

    def get(self, keys: Sequence[bytes]) -> list[bytes | None]:
        values: dict[bytes, bytes] = {}
        with self._locked():
            for begin in range(0, len(keys), self.MAX_KEYS):
                part = keys[begin : begin + self.MAX_KEYS]
                marks = ",".join("?" * len(part))
                values.update(self._database.execute(f"SELECT key, value FROM records WHERE key IN ({marks})", part))
        return [values.get(key) for key in keys]

    def swap(self, swaps: Sequence[Swap]) -> list[bool]:
        with self._locked():
            self._database.execute("BEGIN IMMEDIATE")  # a transaction that starts as a reader could be refused
            try:
                done = [self._swap_one(swap) for swap in swaps]
                self._database.execute("COMMIT")
            except BaseException:
                self._database.execute("ROLLBACK")
                raise
        return done

    def close(self) -> None:
        with self._lock:
            self._database.close()

    def _swap_one(self, swap: Swap) -> bool:
        key, old, new = swap
        run = self._database.execute
        if old is None:
            return run("INSERT OR IGNORE INTO records VALUES (?, ?)", (key, new)).rowcount == 1
        if new is None:
            return run("DELETE FROM records WHERE key = ? AND value = ?", (key, old)).rowcount == 1
        return run("UPDATE records SET value = ? WHERE key = ? AND value = ?", (new, key, old)).rowcount == 1

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with self._lock:
            try:
                yield
            except (sqlite3.Error, OSError) as error:
                raise StoreUnavailable(f"{self.location}: {error}") from error


class RedisEngine:
    """An engine on a pool of Redis connections, safe to share among threads.

    The URL is redis://, rediss:// (TLS) or unix://, with credentials if the server needs them. `timeout_s` is the
    longest wait for a connection and for a response. `single` keeps one connection for one thread, made at once. It is
    faster: a pool checks the socket of a connection each time it hands it out.
    """

    # Takes the digest of the expected value, which so does not travel again.
    SWAP_SCRIPT = """
local held = redis.call('GET', KEYS[1])
if (held and redis.sha1hex(held) or '') ~= ARGV[1] then return 0 end
if ARGV[2] then redis.call('SET', KEYS[1], ARGV[2]) else redis.call('DEL', KEYS[1]) end
return 1
"""

    def __init__(self, url: str, timeout_s: float, single: bool = False) -> None:
        self.location = without_credentials(url)
        # Retry once if a connection broke, since an idle one may have been closed. Never after a timeout, which would
        # double the wait. The library's default would back off for seconds.
        retry = Retry(NoBackoff(), 1, supported_errors=(redis.ConnectionError,))
        timeouts = {"socket_timeout": timeout_s, "socket_connect_timeout": timeout_s}
        options = {"retry": retry, "retry_on_timeout": False, "single_connection_client": single}
        with self._translated_errors():
            try:
                self._redis = redis.Redis.from_url(url, **timeouts, **options)
            except ValueError as error:
                raise StoreError(f"{STORE_VARIABLE} is not a Redis URL: {error}") from None

    def get(self, keys: Sequence[bytes]) -> list[bytes | None]:
        with self._translated_errors():
            return cast(list[bytes | None], self._redis.mget(keys))

    def swap(self, swaps: Sequence[Swap]) -> list[bool]:
        with self._translated_errors(), self._redis.pipeline(transaction=False) as pipeline:
            for key, old, new in swaps:
                digest = "" if old is None else hashlib.sha1(old, usedforsecurity=False).hexdigest()
                pipeline.eval(self.SWAP_SCRIPT, 1, key, digest, *([] if new is None else [new]))
            return [bool(done) for done in pipeline.execute()]

    def close(self) -> None:
        self._redis.close()

    @contextmanager
    def _translated_errors(self) -> Iterator[None]:
        try:
            yield
        except (redis.RedisError, OSError) as error:
            raise StoreUnavailable(f"{self.location}: {error}") from error
