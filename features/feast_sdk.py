"""Read and write the online store that a Feast repository names, through Feast's own library."""

from __future__ import annotations

import fcntl
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd

from features.feast_server import (
    FEATURE_NAMES,
    ServerEngine,
    entity_columns,
    locate_row,
    safe_text,
    select_records,
    user_in_key,
)
from features.online.errors import RecordError, StoreError, StoreUnavailable
from features.online.profile import PERSONALIZATION, Profile
from features.online.records import decode_profile
from features.online.store import Engine, Swap

MAX_KEYS = 10_000  # per read; Feast's SQLite allows 32,766
LOCK_RETRY_SECONDS = 0.005
EMPTY_COLUMNS = dict.fromkeys(
    ("events", "last_item", "last_event_time", "feature_time", "personalization", "truncated"), None
)


def open_feast(url: str, timeout_s: float) -> Engine:
    """Open a Feast URL: a repository through Feast's library, a server through HTTP. See `connect.EngineFactory`.

    Raises:
        StoreError: Feast is not installed, or the folder is not a feature repository.
    """
    if url.startswith("feast:///"):
        return SdkEngine(Path(url.removeprefix("feast://")), timeout_s)
    return ServerEngine(url, timeout_s)


class SdkEngine:
    """An engine on one Feast client that threads share. Only one process on the machine writes at a time.

    Args:
        repository: the folder of a feature_store.yaml, after `feast apply`.
        timeout_s: how long a writer waits for another. How long a call may take is the online store's own setting.
    """

    def __init__(self, repository: Path, timeout_s: float) -> None:
        try:
            from feast import FeatureStore  # an optional dependency, and slow to load
        except ModuleNotFoundError as error:
            raise StoreError(
                f"{error}; install Feast: pip install -c requirements.lock 'feast[grpcio]==0.67.*'"
            ) from None
        self.location = f"feast://{repository}"
        self._settings, self._timeout_s = repository / "feature_store.yaml", timeout_s
        self._lock = threading.RLock()
        if not self._settings.is_file():
            raise StoreError(f"{self.location} holds no feature_store.yaml")
        with self._locked():
            self._feast = FeatureStore(repo_path=str(repository))

    def get(self, keys: Sequence[bytes]) -> list[bytes | None]:
        with self._locked():
            parts = [keys[begin : begin + MAX_KEYS] for begin in range(0, len(keys), MAX_KEYS)]
            return [raw for part in parts for raw in self._get(part)]

    def swap(self, swaps: Sequence[Swap]) -> list[bool]:
        # Feast cannot compare and swap: a file lock makes this process the only writer meanwhile.
        with self._locked(), self._write_lock():
            keys = [swap.key for swap in swaps]
            values = dict(zip(keys, self.get(keys), strict=True))
            done: list[bool] = []
            for key, old, new in swaps:
                done.append(values[key] == old)
                if done[-1]:
                    values[key] = new
            changed = {key: values[key] for key, was_done in zip(keys, done, strict=True) if was_done}
            self._write(changed)
            stored = zip(changed, self.get(list(changed)), strict=True)
            lost = {key for key, raw in stored if raw != changed[key]}
        return [was_done and key not in lost for key, was_done in zip(keys, done, strict=True)]

    def ping(self) -> None:
        self.get([b"tidegate::policy"])

    def close(self) -> None:
        """Does nothing: Feast closes what it opened at the end of the process."""

    def _get(self, keys: Sequence[bytes]) -> list[bytes | None]:
        rows = list(map(locate_row, keys))
        features = self._feast.get_online_features(FEATURE_NAMES, entity_columns(rows), full_feature_names=True)
        return select_records(rows, features.to_dict())

    def _write(self, changed: Mapping[bytes, bytes | None]) -> None:
        now = datetime.now(UTC)
        by_view: dict[str, list[dict[str, Any]]] = {"profile": [], "shared": []}
        for key, raw in changed.items():
            row = locate_row(key)
            columns = record_columns(key, raw) if row.view == "profile" else {}
            by_view[row.view].append(
                {**row.entities, **columns, "record": raw, "erased": raw is None, "event_timestamp": now}
            )
        for view, rows in by_view.items():
            if rows:
                self._feast.write_to_online_store(view, pd.DataFrame(rows, dtype=object))

    @contextmanager
    def _write_lock(self) -> Iterator[None]:
        deadline = time.monotonic() + self._timeout_s
        with self._settings.open() as file:
            while True:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > deadline:
                        raise StoreUnavailable(f"{self.location}: another writer holds the lock") from None
                    time.sleep(LOCK_RETRY_SECONDS)
            yield

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with self._lock:
            try:
                yield
            except StoreError:
                raise
            except Exception as error:  # each of Feast's online stores has its own exceptions
                raise StoreUnavailable(f"{self.location}: {error!r}; was `feast apply` run?") from error


def record_columns(key: bytes, raw: bytes | None) -> dict[str, Any]:
    """The columns beside a profile's record; null if there is no record, or it cannot be read."""
    if raw is None:
        return EMPTY_COLUMNS
    try:
        return profile_columns(decode_profile(raw, user_in_key(key)))
    except RecordError:
        return EMPTY_COLUMNS


def profile_columns(profile: Profile) -> dict[str, Any]:
    """The columns of a profile that Feast's UI shows."""
    last, consent = profile.events[-1:], profile.consent.get(PERSONALIZATION)
    return {
        "events": len(profile.events),
        "last_item": safe_text(last[0].item_id.encode("utf-8", "surrogatepass")) if last else None,
        "last_event_time": to_datetime(last[0].time_us) if last else None,
        "feature_time": to_datetime(profile.feature_time_us),
        "personalization": consent and consent.value,
        "truncated": profile.truncated,
    }


def to_datetime(time_us: int) -> datetime:
    return datetime.fromtimestamp(time_us / 1e6, UTC)
