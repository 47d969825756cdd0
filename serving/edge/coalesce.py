"""Who asks what somebody is asking already waits for that answer."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

Value = TypeVar("Value")


class Flights(Generic[Value]):
    """Calls under way, by key."""

    def __init__(self) -> None:
        self._under_way: dict[bytes, asyncio.Future[Value]] = {}

    async def join(self, key: bytes, call: Callable[[], Awaitable[Value]], seconds: float) -> tuple[Value, bool]:
        """What the call under this key returns or raises, and whether somebody else had made it.

        Args:
            seconds: that one who joins waits at most; who makes the call sees to its end itself.

        Raises:
            TimeoutError: the call that was joined took longer.
        """
        flight = self._under_way.get(key)
        if flight is not None:
            return await asyncio.wait_for(asyncio.shield(flight), seconds), True
        flight = self._under_way[key] = asyncio.get_running_loop().create_future()
        try:
            value = await call()
            flight.set_result(value)
            return value, False
        except BaseException as error:
            flight.set_exception(error if isinstance(error, Exception) else TimeoutError())
            flight.exception()  # read, so that a failure nobody joined is not reported as forgotten
            raise
        finally:
            del self._under_way[key]
