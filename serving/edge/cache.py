"""Answers that were given, kept for a while: in this process, or in a Redis that all processes share."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Protocol

ENTRY_BYTES = 400  # what Python takes for an entry, beside its key and value


class Cache(Protocol):
    """Bytes by key. A cache that fails is one that holds nothing: no method raises."""

    async def get(self, key: bytes, seconds: float) -> bytes | None:
        """The value, or None; within `seconds`."""

    def put(self, key: bytes, value: bytes, keep_seconds: float) -> None:
        """Keep a value, soon: the caller does not wait."""

    async def close(self) -> None:
        """Let go of connections."""


class NoCache:
    """Keeps nothing."""

    async def get(self, key: bytes, seconds: float) -> bytes | None:
        return None

    def put(self, key: bytes, value: bytes, keep_seconds: float) -> None:
        return None

    async def close(self) -> None:
        return None


class MemoryCache:
    """The least recently used entries go when the bytes are used up.

    Args:
        most_bytes: of keys, values and what keeping them takes.
        clock: seconds, monotonic.
    """

    def __init__(self, most_bytes: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._most, self._clock = most_bytes, clock
        self._held: OrderedDict[bytes, tuple[float, bytes]] = OrderedDict()
        self.bytes = 0

    async def get(self, key: bytes, seconds: float) -> bytes | None:
        held = self._held.get(key)
        if held is None:
            return None
        until, value = held
        if self._clock() >= until:
            self._drop(key)
            return None
        self._held.move_to_end(key)
        return value

    def put(self, key: bytes, value: bytes, keep_seconds: float) -> None:
        self._drop(key)
        if keep_seconds <= 0 or _size(key, value) > self._most:
            return
        self._held[key] = self._clock() + keep_seconds, value
        self.bytes += _size(key, value)
        while self.bytes > self._most:
            self._drop(next(iter(self._held)))

    async def close(self) -> None:
        self._held.clear()
        self.bytes = 0

    def _drop(self, key: bytes) -> None:
        held = self._held.pop(key, None)
        if held is not None:
            self.bytes -= _size(key, held[1])


def _size(key: bytes, value: bytes) -> int:
    return ENTRY_BYTES + len(key) + len(value)
