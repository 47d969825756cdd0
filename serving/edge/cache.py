"""A cache of answers, in this process or in a Redis that all processes share; and one call for equal requests at once.

A cache that fails behaves as an empty one: no method raises.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any, Generic, NamedTuple, TypeVar

from cachetools import TLRUCache
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from serving.circuit_breaker import Breaker

log = logging.getLogger(__name__)

ENTRY_BYTES = 400  # what Python takes for an entry besides its key and value
MAX_PENDING_WRITES = 256  # to Redis; further ones are dropped
PREFIX = b"tidegate:edge:"

Value = TypeVar("Value")


class _Entry(NamedTuple):
    value: bytes
    size: int
    keep_seconds: float


class MemoryCache:
    """An in-process cache with a time to live per entry; the least recently used entries go when it is full.

    `max_bytes` is of keys, values and the overhead of entries; 0 stores nothing.
    """

    def __init__(self, max_bytes: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._max_bytes = max_bytes
        self._entries: TLRUCache[bytes, _Entry] = TLRUCache(
            max_bytes,
            ttu=lambda key, entry, now: now + entry.keep_seconds,
            timer=clock,
            getsizeof=lambda entry: entry.size,
        )

    async def get(self, key: bytes, seconds: float) -> bytes | None:
        try:  # not `in` first: the entry may expire in between
            return self._entries[key].value
        except KeyError:
            return None

    def put(self, key: bytes, value: bytes, keep_seconds: float) -> None:
        """Store a value for some seconds."""
        size = ENTRY_BYTES + len(key) + len(value)
        if keep_seconds > 0 and size <= self._max_bytes:
            self._entries[key] = _Entry(value, size, keep_seconds)

    async def close(self) -> None:
        self._entries.clear()


class RedisCache:
    """A cache in Redis: a read or write may take `timeout` seconds, and nobody waits for a Redis that has stopped."""

    def __init__(self, url: str, breaker: Breaker, timeout: float) -> None:
        # No retries and no waiting beyond ours: an answer without the cache is better than a late one.
        limits: dict[str, Any] = {
            "socket_timeout": 1,
            "socket_connect_timeout": 1,
            "max_connections": 2 * MAX_PENDING_WRITES,
        }
        self._redis = Redis.from_url(url, retry=Retry(NoBackoff(), 0), **limits)
        self.breaker, self._timeout = breaker, timeout
        self._writes: set[asyncio.Task] = set()

    async def get(self, key: bytes, seconds: float) -> bytes | None:
        """The value, or None; within `seconds`."""
        return await self._call(lambda: self._redis.get(PREFIX + key), min(seconds, self._timeout))

    def put(self, key: bytes, value: bytes, keep_seconds: float) -> None:
        """Store a value soon: the caller does not wait."""
        if keep_seconds <= 0 or len(self._writes) >= MAX_PENDING_WRITES or not self.breaker.closed:
            return
        milliseconds = max(1, int(keep_seconds * 1000))
        write = self._call(lambda: self._redis.set(PREFIX + key, value, px=milliseconds), self._timeout)
        task = asyncio.get_running_loop().create_task(write)
        self._writes.add(task)
        task.add_done_callback(self._writes.discard)

    async def close(self) -> None:
        await asyncio.gather(*self._writes, return_exceptions=True)
        await self._redis.aclose()

    async def _call(self, command: Callable[[], Awaitable[Any]], seconds: float) -> Any:
        if not self.breaker.allows():
            return None
        begun = self.breaker.clock()
        try:
            async with asyncio.timeout(seconds):
                reply = await command()
        except (RedisError, OSError, TimeoutError) as error:
            self.breaker.failed(begun)
            if not self.breaker.closed:
                log.warning("the cache is not used for a while: %s", type(error).__name__)
            return None
        self.breaker.succeeded()
        return reply


Cache = MemoryCache | RedisCache


class SharedCalls(Generic[Value]):
    """Calls in progress, by key: a request that equals one in progress waits for its result."""

    def __init__(self) -> None:
        self._in_progress: dict[bytes, asyncio.Future[Value]] = {}

    async def call(self, key: bytes, function: Callable[[], Awaitable[Value]], seconds: float) -> tuple[Value, bool]:
        """What the call under this key returns or raises, and whether another request had begun it.

        Raises:
            TimeoutError: the other request's call took longer than `seconds`; a call of its own limits itself.
        """
        future = self._in_progress.get(key)
        if future is not None:
            return await asyncio.wait_for(asyncio.shield(future), seconds), True
        future = self._in_progress[key] = asyncio.get_running_loop().create_future()
        try:
            value = await function()
            future.set_result(value)
            return value, False
        except BaseException as error:
            future.set_exception(error if isinstance(error, Exception) else TimeoutError())
            future.exception()  # mark it as read: a failure that nobody waits for is not worth a log line
            raise
        finally:
            del self._in_progress[key]
