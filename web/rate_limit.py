"""How much one key may send: a token bucket per key."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from cachetools import TTLCache

MAX_BUCKETS = 100_000  # the key that was quiet for longest gets a new one


@dataclass
class RateLimit:
    """Token bucket per key, in this process: `per_second` tokens come back, up to `burst`."""

    per_second: float
    burst: float
    clock: Callable[[], float] = time.monotonic

    def __post_init__(self) -> None:
        # Key id -> (tokens, as of when). One that expires is full again, as a new one is.
        self._buckets: TTLCache[str, tuple[float, float]] = TTLCache(
            MAX_BUCKETS, self.burst / self.per_second, self.clock
        )

    def take(self, key_id: str, amount: float = 1) -> float:
        """0 where the tokens were taken, else the seconds until there are so many; `amount` is at most the burst."""
        now = self.clock()
        tokens, since = self._buckets.get(key_id, (self.burst, now))
        tokens = min(self.burst, tokens + (now - since) * self.per_second)
        wait = 0.0 if tokens >= amount else (amount - tokens) / self.per_second
        self._buckets[key_id] = (tokens if wait else tokens - amount), now
        return wait
