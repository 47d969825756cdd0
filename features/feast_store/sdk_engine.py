"""Bytes by key in whatever online store a Feast repository names, through Feast's own library: to write and to read."""

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
from feast import FeatureStore

from features.feast_store.server_engine import FEATURES, chosen, entities, place, text, user_of
from features.online import profile_codec
from features.online.errors import RecordError, StoreError, StoreUnavailable
from features.online.key_value_store import Swap
from features.online.profile import PERSONALISATION, Profile

MOST_KEYS = 10_000  # of one question; Feast's SQLite takes 32,766
NO_COLUMNS = dict.fromkeys(
    ("events", "last_item", "last_event_time", "feature_time", "personalisation", "truncated"), None
)


class SdkEngine:
    """One client, which threads take in turns.

    Args:
        repository: the folder of a feature_store.yaml, to which `feast apply` was done.
        timeout_s: how long a writer waits for another. How long a call may take is the online store's own setting.
    """

    def __init__(self, repository: Path, timeout_s: float) -> None:
        self.place = f"feast://{repository}"
        self._settings, self._timeout_s = repository / "feature_store.yaml", timeout_s
        self._turn = threading.RLock()
        if not self._settings.is_file():
            raise StoreError(f"{self.place} holds no feature_store.yaml")
        with self._answering():
            self._feast = FeatureStore(repo_path=str(repository))

    def get(self, keys: Sequence[bytes]) -> list[bytes | None]:
        with self._answering():
            parts = [keys[begin : begin + MOST_KEYS] for begin in range(0, len(keys), MOST_KEYS)]
            return [raw for part in parts for raw in self._get(part)]

    def swap(self, swaps: Sequence[Swap]) -> list[bool]:
        with self._answering(), self._only_writer():
            keys = [swap.key for swap in swaps]
            held = dict(zip(keys, self.get(keys), strict=True))
            done: list[bool] = []
            for key, old, new in swaps:
                done.append(held[key] == old)
                if done[-1]:
                    held[key] = new
            changed = {key: held[key] for key, was_done in zip(keys, done, strict=True) if was_done}
            self._write(changed)
            lost = {key for key, raw in zip(changed, self.get(list(changed)), strict=True) if raw != changed[key]}
        return [was_done and key not in lost for key, was_done in zip(keys, done, strict=True)]

    def ping(self) -> None:
        self.get([b"tidegate::policy"])

    def close(self) -> None:
        """Feast closes what it opened at the end of the process."""

    def _get(self, keys: Sequence[bytes]) -> list[bytes | None]:
        places = list(map(place, keys))
        return chosen(
            places, self._feast.get_online_features(FEATURES, entities(places), full_feature_names=True).to_dict()
        )

    def _write(self, changed: Mapping[bytes, bytes | None]) -> None:
        now = datetime.now(UTC)
        rows: dict[str, list[dict[str, Any]]] = {"profile": [], "shared": []}
        for key, raw in changed.items():
            view = place(key).view
            columns = readable(key, raw) if view == "profile" else {}
            rows[view].append(
                {**place(key).entities, **columns, "record": raw, "erased": raw is None, "event_timestamp": now}
            )
        for view, listed in rows.items():
            if listed:
                self._feast.write_to_online_store(view, pd.DataFrame(listed, dtype=object))

    @contextmanager
    def _only_writer(self) -> Iterator[None]:
        deadline = time.monotonic() + self._timeout_s
        with self._settings.open() as file:
            while True:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > deadline:
                        raise StoreUnavailable(f"{self.place}: another writer is at it") from None
                    time.sleep(0.005)
            yield

    @contextmanager
    def _answering(self) -> Iterator[None]:
        with self._turn:
            try:
                yield
            except StoreError:
                raise
            except Exception as error:  # each online store of Feast's has exceptions of its own
                raise StoreUnavailable(f"{self.place}: {error!r}; was `feast apply` done?") from error


def readable(key: bytes, raw: bytes | None) -> dict[str, Any]:
    """The columns beside a record; null where there is none, or none that can be read."""
    if raw is None:
        return NO_COLUMNS
    try:
        return columns_of(profile_codec.decode(raw, user_of(key)))
    except RecordError:
        return NO_COLUMNS


def columns_of(profile: Profile) -> dict[str, Any]:
    last, stated = profile.events[-1:], profile.consent.get(PERSONALISATION)
    return {
        "events": len(profile.events),
        "last_item": text(last[0].item_id.encode("utf-8", "surrogatepass")) if last else None,
        "last_event_time": moment(last[0].time_us) if last else None,
        "feature_time": moment(profile.feature_time_us),
        "personalisation": stated and stated.value,
        "truncated": profile.truncated,
    }


def moment(time_us: int) -> datetime:
    return datetime.fromtimestamp(time_us / 1e6, UTC)
