"""Which store, and how patient to be with it: environment variables, never params.yaml.

Read without pydantic, which the serving worker does not have.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from config.paths import online_store
from features.online.errors import StoreAbsent, StoreError
from features.online.key_value_store import Engine, RecordStore
from features.online.store import ProfileStore

STORE, READ_MS, WRITE_MS = "TIDEGATE_STORE", "TIDEGATE_STORE_READ_MS", "TIDEGATE_STORE_WRITE_MS"
REDIS = ("redis://", "rediss://", "unix://")
FEAST = ("feast:///", "feast+http://", "feast+https://")

Opener = Callable[[str, float], Engine]  # of a URL of FEAST, and a patience in seconds


@dataclass(frozen=True)
class StoreSettings:
    """An empty variable counts as unset.

    Attributes:
        store: TIDEGATE_STORE: sqlite:///path (a relative one from the working directory), a URL of Redis, or of Feast:
            feast:///folder of a feature repository to write, feast+http://host:port of a feature server to read.
        read_ms: TIDEGATE_STORE_READ_MS: how long an answer may wait for the store.
        write_ms: TIDEGATE_STORE_WRITE_MS: how long a writer waits, which nobody is in a hurry for.
    """

    store: str = field(default_factory=online_store)
    read_ms: float = 100
    write_ms: float = 5000


def settings(environment: Mapping[str, str] = os.environ) -> StoreSettings:
    """Read the environment.

    Raises:
        StoreError: names the variable, its value and what was expected.
    """
    url = environment.get(STORE) or online_store()
    if not url.startswith(("sqlite:///", *REDIS, *FEAST)):
        scheme = url.partition("://")[0][:20]  # what follows may hold a password
        raise StoreError(
            f"{STORE} begins with {scheme!r}; expected sqlite:///path, redis://, rediss://, unix:// or feast"
        )
    return StoreSettings(
        url,
        _milliseconds(environment, READ_MS, StoreSettings.read_ms),
        _milliseconds(environment, WRITE_MS, StoreSettings.write_ms),
    )


def connect(
    namespace: str, found: StoreSettings, writing: bool = False, feast: Opener | None = None, single: bool = False
) -> ProfileStore:
    """Open the store of a data set.

    Args:
        namespace: the data set's name.
        writing: be as patient as a writer.
        feast: opens Feast for those who may load what that takes. The worker, which loads this file, may not.
        single: one thread asks, and is in a hurry; see `RedisEngine`.

    Raises:
        StoreUnavailable: SQLite's file cannot be opened. Redis is first asked at the first call, or here if `single`.
        StoreError: the URL is not one, or is Feast's and `feast` is None.
    """
    seconds = (found.write_ms if writing else found.read_ms) / 1000
    return RecordStore(_engine(found.store, seconds, feast, single), namespace)


def connect_to_read(
    namespace: str, found: StoreSettings, feast: Opener | None = None, single: bool = False
) -> ProfileStore:
    """As `connect`, but a reader makes no store: a file without anything in it would look like one that lost it all.

    Raises:
        StoreAbsent: the embedded store has not been made.
    """
    path = found.store.removeprefix("sqlite:///")
    if path != found.store and not Path(path).exists():
        raise StoreAbsent(f"{found.store} does not exist; run features.materialize")
    return connect(namespace, found, feast=feast, single=single)


def _engine(url: str, seconds: float, feast: Opener | None, single: bool) -> Engine:
    if url.startswith("sqlite:///"):
        from features.online.engines import SqliteEngine

        return SqliteEngine(Path(url.removeprefix("sqlite:///")), seconds)
    if url.startswith(FEAST):
        if feast is None:
            raise StoreError(f"{STORE} is of Feast, which nothing here may load; writers, batch jobs and the edge may")
        return feast(url, seconds)
    from features.online.engines import RedisEngine

    try:
        return RedisEngine(url, seconds, single)
    except ValueError as error:
        raise StoreError(f"{STORE} is no URL of Redis: {error}") from None


def _milliseconds(environment: Mapping[str, str], name: str, default: float) -> float:
    text = environment.get(name) or str(default)
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 1 <= value <= 600_000:  # NaN lies within no bound
        raise StoreError(f"{name} is {text!r}; expected milliseconds from 1 to 600000")
    return value
