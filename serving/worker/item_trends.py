"""Item trends of two times: those of the export, and the newest ones in the online store. Worker side."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence

from features.trends import TrendSnapshot
from features.vocabulary import Vocabulary
from serving.worker.response import digest_of_trends
from serving.worker.users import UserLookup

log = logging.getLogger(__name__)

REFRESH_SECONDS = 10  # the stream updates the store's trends every few minutes


class LiveTrends:
    """Gives each request the newest trends that are not later than its own time."""

    def __init__(self, exported: TrendSnapshot, vocabulary: Vocabulary, channels: Sequence[str]) -> None:
        self._exported, self._vocabulary, self._channels = exported, vocabulary, channels
        self._live: TrendSnapshot | None = None
        self._digests: dict[int, str] = {}  # by time
        self._next_refresh = 0.0

    def snapshots(self) -> list[TrendSnapshot]:
        """The snapshots at hand, oldest first."""
        return [self._exported] if self._live is None else [self._exported, self._live]

    def at(self, time_us: int) -> TrendSnapshot:
        """The snapshot for a request's time."""
        return self._live if self._live is not None and self._live.time_us <= time_us else self._exported

    def digest(self, snapshot: TrendSnapshot) -> str:
        """Digest of one of the snapshots; kept, because every response gives it."""
        if snapshot.time_us not in self._digests:
            self._digests = {one.time_us: digest_of_trends(one, self._channels) for one in self.snapshots()}
        return self._digests[snapshot.time_us]

    def refresh(self, lookup: UserLookup, now_us: int) -> None:
        """Take newer trends from the store, at most once in REFRESH_SECONDS."""
        if not self._channels or time.monotonic() < self._next_refresh:
            return
        self._next_refresh = time.monotonic() + REFRESH_SECONDS
        found = lookup.find_trends(self._vocabulary, now_us, self.snapshots()[-1].time_us)
        if found is None:
            return
        if missing := set(self._channels) - set(found.channels):
            log.warning("the online store's trends lack %s, which the model reads", ", ".join(sorted(missing)))
            return
        self._live = found
