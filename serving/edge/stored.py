"""Users of the online store, as the edge needs them: whether they agreed, and whether anything has changed."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from typing import Any

from data.times import to_iso
from features.feast_store.server_engine import ServerEngine
from features.online import profile as profile_module
from features.online.connect import FEAST, STORE, connect_to_read, settings
from features.online.errors import StoreAbsent, StoreError
from features.online.profile import PERSONALISATION, Profile
from features.online.store import ProfileStore, State
from serving.edge.consent import Standing
from serving.worker.request import MAX_HISTORY


class Stored:
    """Reads in a thread: the store's own client waits.

    Args:
        open_store: called when the store is first needed, and again after it failed to open.
        tells: whether requests are to state what it knows, since the worker cannot read it.
    """

    def __init__(self, open_store: Callable[[], ProfileStore], tells: bool = False) -> None:
        self._open, self._tells = open_store, tells
        self._store: ProfileStore | None = None

    @classmethod
    def of(cls, dataset: str) -> Stored:
        """The store that the environment names, or this project's own, with the profiles of a data set."""
        feast = os.environ.get(STORE, "").startswith(FEAST)
        return cls(lambda: connect_to_read(dataset, settings(), ServerEngine), feast)

    async def read(self, user_id: str) -> Standing:
        return await asyncio.to_thread(self._read, user_id)

    def _read(self, user_id: str) -> Standing:
        try:
            self._store = self._store or self._open()
        except StoreAbsent:  # nothing was ever stored, so nobody was asked
            return Standing(None, "")
        now = time.time_ns() // 1000
        (reading,) = self._store.read([user_id], [now])
        if reading.state is State.CORRUPT:  # it may hold a no
            raise StoreError(f"the profile of a user cannot be read: {reading.detail}")
        if reading.profile is None:
            return Standing(None, "")
        granted = profile_module.consent(reading.profile, now).get(PERSONALISATION)
        return Standing(granted, state_of(reading.profile), told(reading.profile, now) if self._tells else None)

    async def close(self) -> None:
        if self._store is not None:
            self._store.close()


def state_of(profile: Profile) -> str:
    """A text that changes with the profile: when something was last learned, how many events there are, and which
    one is the newest. What arrives late adds an event, or is newly learned."""
    newest = profile.events[-1].event_id if profile.events else ""
    return f"{profile.feature_time_us}:{len(profile.events)}:{newest}"


def told(profile: Profile, now_us: int) -> dict[str, Any]:
    """What is known of a user, as a request states it. It states no event ids: of one time, the worker orders events
    by item, where from a store of its own it orders them by id."""
    seen = profile_module.history(profile, now_us, "all")[-MAX_HISTORY:]
    history = [{"item_id": event.item_id, "event_time": to_iso(event.time_us)} for event in seen]
    return {"history": history, "context": profile_module.traits(profile, now_us)}
