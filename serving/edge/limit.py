"""How many requests a key may make: a bucket of tokens that refills steadily."""

from __future__ import annotations

import time
from collections.abc import Callable


class Limit:
    """One bucket per key, in this process.

    Args:
        per_second: tokens that come back each second, at most `burst` in all.
        clock: seconds, monotonic.
    """

    def __init__(self, per_second: float, burst: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_second, self._burst, self._clock = per_second, max(1.0, burst), clock
        self._buckets: dict[str, tuple[float, float]] = {}  # key -> (tokens, as of when); as many as there are keys

    def take(self, key: str) -> float:
        """0 where the request may go on, else the seconds until it might."""
        now = self._clock()
        tokens, since = self._buckets.get(key, (self._burst, now))
        tokens = min(self._burst, tokens + (now - since) * self._per_second)
        if tokens < 1:
            self._buckets[key] = tokens, now
            return (1 - tokens) / self._per_second
        self._buckets[key] = tokens - 1, now
        return 0.0
