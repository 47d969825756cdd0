"""Read and write the online store that a Feast repository names, through Feast's own library."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
from filelock import FileLock, Timeout

from features.feast_server import FEATURE_NAMES, VIEWS, ServerEngine, entity_columns, locate_row, select_records
from features.online.errors import StoreError, StoreUnavailable
from features.online.store import Engine, Swap

MAX_KEYS = 10_000  # per read; Feast's SQLite allows 32,766


def open_feast(url: str, timeout_s: float) -> Engine:
    """Open a Feast URL: a repository through Feast's library, a server through HTTP. See `connect.EngineFactory`."""
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
            raise StoreError(f"{error}; install Feast: pip install -c <(pip freeze) 'feast[grpcio]==0.67.*'") from None
        self.location = f"feast://{repository}"
        self._lock = threading.RLock()
        self._write_lock = FileLock(repository / ".write.lock", timeout_s)
        if not (repository / "feature_store.yaml").is_file():
            raise StoreError(f"{self.location} holds no feature_store.yaml")
        with self._locked():
            self._feast = FeatureStore(repo_path=str(repository))

    def get(self, keys: Sequence[bytes]) -> list[bytes | None]:
        with self._locked():
            parts = [keys[begin : begin + MAX_KEYS] for begin in range(0, len(keys), MAX_KEYS)]
            return [raw for part in parts for raw in self._get(part)]

    def swap(self, swaps: Sequence[Swap]) -> list[bool]:
        # Feast cannot compare and swap: a file lock makes this process the only writer meanwhile.
        with self._locked(), self._write_lock:
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

    def close(self) -> None:
        """Does nothing: Feast closes what it opened at the end of the process."""

    def _get(self, keys: Sequence[bytes]) -> list[bytes | None]:
        rows = list(map(locate_row, keys))
        features = self._feast.get_online_features(FEATURE_NAMES, entity_columns(rows), full_feature_names=True)
        return select_records(rows, features.to_dict())

    def _write(self, changed: Mapping[bytes, bytes | None]) -> None:
        now = datetime.now(UTC)
        by_view: dict[str, list[dict[str, Any]]] = {view: [] for view in reversed(VIEWS)}  # consent before profiles
        for key, raw in changed.items():
            row = locate_row(key)
            by_view[row.view].append({**row.entities, "record": raw, "erased": raw is None, "event_timestamp": now})
        for view, rows in by_view.items():
            if rows:
                self._feast.write_to_online_store(view, pd.DataFrame(rows, dtype=object))

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with self._lock:
            try:
                yield
            except StoreError:
                raise
            except Timeout:
                raise StoreUnavailable(f"{self.location}: another writer holds the lock") from None
            except Exception as error:  # each of Feast's online stores has its own exceptions
                raise StoreUnavailable(f"{self.location}: {error!r}; was `feast apply` run?") from error
