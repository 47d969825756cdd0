"""A cache in Redis, which may stop at any moment without anybody having to wait for it."""

from __future__ import annotations

import asyncio
import logging

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from serving.circuit_breaker import Breaker

log = logging.getLogger(__name__)

MOST_PUTS = 256  # that may wait for Redis; further ones are let go
PREFIX = b"tidegate:edge:"


class RedisCache:
    """See `serving.edge.cache.Cache`.

    Args:
        url: redis://, rediss:// or unix://.
        breaker: rests a Redis that fails.
        seconds: that a put may take.
    """

    def __init__(self, url: str, breaker: Breaker, seconds: float) -> None:
        # No retries and no waiting beyond ours: an answer without the cache is better than a late one.
        self._redis = Redis.from_url(
            url, socket_timeout=1, socket_connect_timeout=1, retry=Retry(NoBackoff(), 0), max_connections=2 * MOST_PUTS
        )
        self.breaker, self._seconds = breaker, seconds
        self._puts: set[asyncio.Task] = set()

    async def get(self, key: bytes, seconds: float) -> bytes | None:
        return await self._try(self._redis.get(PREFIX + key), min(seconds, self._seconds))

    def put(self, key: bytes, value: bytes, keep_seconds: float) -> None:
        if keep_seconds <= 0 or len(self._puts) >= MOST_PUTS or not self.breaker.closed:
            return
        milliseconds = max(1, int(keep_seconds * 1000))
        task = asyncio.get_running_loop().create_task(
            self._try(self._redis.set(PREFIX + key, value, px=milliseconds), self._seconds)
        )
        self._puts.add(task)
        task.add_done_callback(self._puts.discard)

    async def close(self) -> None:
        await asyncio.gather(*self._puts, return_exceptions=True)
        await self._redis.aclose()

    async def _try(self, call, seconds: float):
        if not self.breaker.allows():
            call.close()
            return None
        asked = self.breaker.clock()
        try:
            async with asyncio.timeout(seconds):
                found = await call
        except (RedisError, OSError, TimeoutError) as error:
            self.breaker.failed(asked)
            if not self.breaker.closed:
                log.warning("the cache is left alone for a while: %s", type(error).__name__)
            return None
        self.breaker.succeeded()
        return found
