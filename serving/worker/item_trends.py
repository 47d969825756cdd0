"""Item trends of two moments: of the export, and the newest that the online store has. Worker side."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence

from features.trends import TrendSnapshot
from features.vocabulary import Vocabulary
from serving.worker import response
from serving.worker.users import Lookup

log = logging.getLogger(__name__)

EVERY_SECONDS = 10  # between two looks for newer ones: the store's change every few minutes


class Trends:
    """Each request sees the newest trends that are not of a later moment than its own."""

    def __init__(self, exported: TrendSnapshot, vocabulary: Vocabulary, channels: Sequence[str]) -> None:
        self._exported, self._vocabulary, self._channels = exported, vocabulary, channels
        self._live: TrendSnapshot | None = None
        self._digests: dict[int, str] = {}  # by moment
        self._next_look = 0.0

    def known(self) -> list[TrendSnapshot]:
        """The snapshots that there are, oldest first."""
        return [self._exported] if self._live is None else [self._exported, self._live]

    def of(self, time_us: int) -> TrendSnapshot:
        """The one for a request's time."""
        return self._live if self._live is not None and self._live.time_us <= time_us else self._exported

    def digest(self, snapshot: TrendSnapshot) -> str:
        """Of a known snapshot, as `serving.worker.response` has it; kept, since every answer states it."""
        if snapshot.time_us not in self._digests:
            self._digests = {one.time_us: response.of_trends(one, self._channels) for one in self.known()}
        return self._digests[snapshot.time_us]

    def freshen(self, lookup: Lookup, now_us: int) -> None:
        """Take newer ones from the store where there are, if it was not asked just now."""
        if not self._channels or time.monotonic() < self._next_look:
            return
        self._next_look = time.monotonic() + EVERY_SECONDS
        found = lookup.trends(self._vocabulary, now_us, self.known()[-1].time_us)
        if found is None:
            return
        if absent := set(self._channels) - set(found.channels):
            log.warning("the online store's trends lack %s, which the model reads", ", ".join(sorted(absent)))
            return
        self._live = found
