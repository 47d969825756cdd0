"""Bytes by key in Redis: the store at scale. Each method is one round trip; hiredis parses where installed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import cast
from urllib.parse import urlsplit

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from features.online.errors import StoreUnavailable
from features.online.record_store import Swap

# The digest stands for the value that must be there, which so need not travel again.
SWAP = """
local held = redis.call('GET', KEYS[1])
if (held and redis.sha1hex(held) or '') ~= ARGV[1] then return 0 end
if ARGV[2] then redis.call('SET', KEYS[1], ARGV[2]) else redis.call('DEL', KEYS[1]) end
return 1
"""


class RedisEngine:
    """One pool of connections, safe to share among threads.

    Args:
        url: redis://, rediss:// (TLS) or unix://, with credentials where the server wants them.
        timeout_s: the longest wait for a connection, and for an answer.
        single: keep one connection instead, for one thread that is in a hurry: a pool asks the socket of a connection
            each time it gives it out, whether the server has closed it.

    Raises:
        StoreUnavailable: of a single connection, which is made here.
    """

    def __init__(self, url: str, timeout_s: float, single: bool = False) -> None:
        parts = urlsplit(url)
        self.place = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
        # Once more where a connection broke, since an idle one may have been closed; never after a timeout, which
        # would make the wait twice as long. The library's own default backs off for seconds.
        again = Retry(NoBackoff(), 1, supported_errors=(redis.ConnectionError,))
        waits = {"socket_timeout": timeout_s, "socket_connect_timeout": timeout_s}
        with self._answering():
            self._redis = redis.Redis.from_url(
                url, **waits, retry=again, retry_on_timeout=False, single_connection_client=single
            )

    def get(self, keys: Sequence[bytes]) -> list[bytes | None]:
        with self._answering():
            return cast(list[bytes | None], self._redis.mget(keys))

    def swap(self, swaps: Sequence[Swap]) -> list[bool]:
        with self._answering(), self._redis.pipeline(transaction=False) as pipeline:
            for key, old, new in swaps:
                pipeline.eval(SWAP, 1, key, _digest(old), *([] if new is None else [new]))
            return [bool(done) for done in pipeline.execute()]

    def ping(self) -> None:
        with self._answering():
            self._redis.ping()

    def close(self) -> None:
        self._redis.close()

    @contextmanager
    def _answering(self) -> Iterator[None]:
        try:
            yield
        except (redis.RedisError, OSError) as error:
            raise StoreUnavailable(f"{self.place}: {error}") from error


def _digest(value: bytes | None) -> str:
    return "" if value is None else hashlib.sha1(value, usedforsecurity=False).hexdigest()
