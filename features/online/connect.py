"""Connect to the online store that the environment names, and its two built-in engines: SQLite and Redis.

Settings are environment variables, read without pydantic, which the serving worker does not have.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import sqlite3
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from config.paths import online_store
from config.redact import without_credentials
from features.online.errors import StoreAbsent, StoreError, StoreUnavailable
from features.online.store import CONSENT_PREFIX, POLICY, Engine, ProfileStore, Swap

log = logging.getLogger(__name__)

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
    creates_consent: bool = False,
) -> ProfileStore:
    """Open the store of a dataset, the namespace; `writing` uses the timeout of a writer.

    Args:
        open_feast: opens a Feast URL. The worker cannot, since it does not have Feast's dependencies.
        single: keep a single connection for a single thread; see `RedisEngine`.
        creates_consent: create the consent file of an embedded store that has profiles.

    Raises:
        StoreUnavailable: SQLite's file cannot be opened, or consent is lost. Redis is contacted at the first call,
            unless `single` is set.
        StoreError: the URL is malformed, or is Feast's and `open_feast` is None.
    """
    url, timeout_s = settings.store, (settings.write_ms if writing else settings.read_ms) / 1000
    engine: Engine
    if url.startswith(SQLITE_SCHEME):
        engine = SqliteEngine(Path(url.removeprefix(SQLITE_SCHEME)), timeout_s, creates_consent)
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

    Raises:
        StoreAbsent: the embedded store has no file.
        StoreUnavailable: it has only one of its two files.
    """
    if settings.store.startswith(SQLITE_SCHEME):
        path = Path(settings.store.removeprefix(SQLITE_SCHEME))
        if not path.exists():
            kind = StoreUnavailable if consent_file(path).exists() else StoreAbsent
            raise kind(f"{settings.store} does not exist; run features.materialize")
    return connect(namespace, settings, open_feast=open_feast, single=single)


def consent_file(path: Path) -> Path:
    """The file next to an embedded store that holds consent: who deletes or loses the profiles loses no answer."""
    return path.with_suffix(f".consent{path.suffix}")


def mark_restored(database: Path, moment_us: int) -> None:
    """Note in a database of a restored backup, if it is an embedded store, that newer answers to consent may be lost.

    Nobody is read from it until `features.materialize --no-answer` says what holds.
    """
    with closing(sqlite3.connect(database, isolation_level=None)) as connection:
        columns = {name for (name,) in connection.execute("SELECT name FROM pragma_table_info('records')")}
        if columns != {"key", "value"}:
            return
        # A user's key may end likewise, but a profile does not begin like JSON.
        is_policy = f"substr(key, -7) = CAST(':{POLICY}' AS BLOB) AND substr(value, 1, 1) = CAST('{{' AS BLOB)"
        for key, value in connection.execute(f"SELECT key, value FROM records WHERE {is_policy}").fetchall():
            policy = json.dumps(json.loads(value) | {"complete": False, "restored_us": moment_us}).encode()
            connection.execute("UPDATE records SET value = ? WHERE key = ?", (policy, key))


def _schema(key: bytes) -> str:
    """SQLite's name for the file that holds a key."""
    return "consent" if key.startswith(CONSENT_PREFIX) else "main"


class SqliteEngine:
    """An engine on one SQLite connection that threads share. Readers never wait for a writer (WAL).

    Consent lies in a second file, see `consent_file`. Files are created if missing, readable by their owner only; but a
    missing or empty consent file next to a configured store, which lost all answers, only with `creates_consent`. If one
    is replaced, by a restored backup for example, the next call opens the new one. A writer waits up to `timeout_s` for
    another.
    """

    MAX_KEYS = 10_000  # per statement; SQLite allows 32,766

    def __init__(self, path: Path, timeout_s: float, creates_consent: bool = False) -> None:
        self.location = f"{SQLITE_SCHEME}{path}"
        self._files, self._timeout_s = {"main": str(path), "consent": str(consent_file(path))}, timeout_s
        if path.exists() and not consent_file(path).exists() and not creates_consent:
            raise self._lost_consent("missing")
        self._lock = threading.Lock()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            for file in reversed(self._files.values()):  # consent first: a killed process leaves no profiles alone
                os.close(os.open(file, os.O_CREAT | os.O_RDWR, 0o600))  # profiles are personal data
            self._open(creates_consent)
        except (sqlite3.Error, OSError) as error:
            raise StoreUnavailable(f"{self.location}: {error}") from error

    def _lost_consent(self, state: str) -> StoreUnavailable:
        return StoreUnavailable(
            f"{self.location} lost all answers to consent: {self._files['consent']} is {state}; restore it, or run "
            "features.materialize --no-answer"
        )

    def _open(self, creates_consent: bool = False) -> None:
        inodes = self._present_inodes()
        self._database = sqlite3.connect(
            self._files["main"], self._timeout_s, isolation_level=None, check_same_thread=False
        )
        self._database.execute("ATTACH DATABASE ? AS consent", [self._files["consent"]])
        for name in self._files:
            self._database.execute(f"PRAGMA {name}.journal_mode = WAL")
            self._database.execute(f"PRAGMA {name}.synchronous = FULL")  # acknowledged writes survive a power failure
            # A configured store has a policy in `main`, and had this table in both files.
            has_table = self._database.execute(f"SELECT 1 FROM {name}.sqlite_master WHERE name = 'records'").fetchone()
            may_create = has_table or name == "main" or creates_consent
            if not may_create and self._database.execute("SELECT 1 FROM main.records").fetchone():
                raise self._lost_consent("empty")
            self._database.execute(
                f"CREATE TABLE IF NOT EXISTS {name}.records (key BLOB PRIMARY KEY, value BLOB NOT NULL)"
            )
        # Profiles first: consent is written before them, so none is missing for a profile that was found.
        self._database.execute(
            "CREATE TEMP VIEW records AS SELECT * FROM main.records UNION ALL SELECT * FROM consent.records"
        )
        self._inodes = inodes

    def _present_inodes(self) -> list[tuple[int, int]]:
        return [(found.st_dev, found.st_ino) for found in map(os.stat, self._files.values())]

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
            # Leave nothing in a write-ahead log: it would change whatever file replaces the present one.
            for schema in {_schema(swap.key) for swap in swaps}:
                self._database.execute(f"PRAGMA {schema}.wal_checkpoint(TRUNCATE)")
        return done

    def close(self) -> None:
        with self._lock:
            self._database.close()

    def _swap_one(self, swap: Swap) -> bool:
        key, old, new = swap
        run, table = self._database.execute, f"{_schema(key)}.records"
        if old is None:
            return run(f"INSERT OR IGNORE INTO {table} VALUES (?, ?)", (key, new)).rowcount == 1
        if new is None:
            return run(f"DELETE FROM {table} WHERE key = ? AND value = ?", (key, old)).rowcount == 1
        return run(f"UPDATE {table} SET value = ? WHERE key = ? AND value = ?", (new, key, old)).rowcount == 1

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Alone with a connection to the files that are there now."""
        with self._lock:
            try:
                if self._present_inodes() != self._inodes:
                    self._database.close()
                    self._open()
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
        options = {
            "retry": retry,
            "retry_on_timeout": False,
            "single_connection_client": single,
            "redis_connect_func": self._on_connect,
        }
        with self._translated_errors():
            try:
                self._redis = redis.Redis.from_url(url, **timeouts, **options)
            except ValueError as error:
                raise StoreError(f"{STORE_VARIABLE} is not a Redis URL: {error}") from None

    def _on_connect(self, connection: redis.Connection) -> None:
        """Refuse a server that may evict keys without time-to-live: a no would be lost. Asked of each connection."""
        connection.on_connect()
        connection.send_command("INFO", "memory", check_health=False)
        try:
            found = re.search(rb"^maxmemory_policy:(\S+)", connection.read_response(), re.MULTILINE)
        except redis.ResponseError as error:  # not permitted to this account
            log.warning("%s: whether it evicts keys is not known: %s", self.location, error)
            return
        if found and found[1].startswith(b"allkeys-"):
            policy = found[1].decode()
            raise redis.RedisError(f"maxmemory-policy is {policy}, which evicts answers to consent; set noeviction")

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
