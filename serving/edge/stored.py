"""Users of the online store, as the edge needs them: whether they agreed, and whether anything has changed."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable

from features.online import as_of
from features.online.connect import STORE, connect_to_read, settings
from features.online.errors import StoreAbsent, StoreError
from features.online.profile import PERSONALISATION, Profile
from features.online.store import ProfileStore, State
from serving.edge.consent import Standing
from serving.launch import embedded_store


class Stored:
    """Reads in a thread: the store's own client waits.

    Args:
        open_store: called when the store is first needed, and again after it failed to open.
    """

    def __init__(self, open_store: Callable[[], ProfileStore]) -> None:
        self._open = open_store
        self._store: ProfileStore | None = None

    @classmethod
    def of(cls, dataset: str) -> Stored:
        """The store that the environment names, or this project's own, with the profiles of a data set."""
        stated = {**os.environ, STORE: os.environ.get(STORE) or embedded_store()}
        return cls(lambda: connect_to_read(dataset, settings(stated)))

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
        return Standing(as_of.consent(reading.profile, now).get(PERSONALISATION), state_of(reading.profile))

    async def close(self) -> None:
        if self._store is not None:
            self._store.close()


def state_of(profile: Profile) -> str:
    """A text that changes with the profile: when something was last learned, how many events there are, and which
    one is the newest. What arrives late adds an event, or is newly learned."""
    newest = profile.events[-1].event_id if profile.events else ""
    return f"{profile.feature_time_us}:{len(profile.events)}:{newest}"
