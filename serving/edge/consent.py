"""May this user's answer be personal, and has anything changed since the last one? One read, within its time.

The profile store is another part's. Whatever holds profiles plugs in here by one method.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any, Protocol

from serving.circuit_breaker import Breaker
from serving.edge.errors import StoreError


@dataclass(frozen=True)
class Standing:
    """Attributes:
    consent: whether the user agreed to personalisation; None where nobody asked.
    state: a text that changes whenever what is known of the user does; cached answers are kept by it.
    told: history and context to put into a request that states no history, where the worker cannot read the store.
    """

    consent: bool | None
    state: str
    told: dict[str, Any] | None = None


class Users(Protocol):
    """What the edge needs of a profile store."""

    async def read(self, user_id: str) -> Standing:
        """One round trip; any exception means that there is no word on the user."""

    async def close(self) -> None:
        """Let go of connections."""


class NoStore:
    """Without a store nobody was asked, and an answer rests on what its request states."""

    async def read(self, user_id: str) -> Standing:
        return Standing(None, "")

    async def close(self) -> None:
        return None


class Memory:
    """A store in this process: for tests, and to see how one plugs in."""

    def __init__(self, standings: dict[str, Standing] | None = None) -> None:
        self.standings = standings or {}

    async def read(self, user_id: str) -> Standing:
        return self.standings.get(user_id, Standing(None, ""))

    async def close(self) -> None:
        return None


class Guarded:
    """A store that is waited for no longer than `seconds`, and left alone while it fails."""

    def __init__(self, users: Users, breaker: Breaker, seconds: float) -> None:
        self._users, self.breaker, self._seconds = users, breaker, seconds

    async def read(self, user_id: str, seconds: float) -> Standing:
        """The user's standing, within the smaller of both limits.

        Raises:
            StoreError: there is none.
        """
        if not self.breaker.allows():
            raise StoreError("the profile store was not asked, since it kept failing")
        limit = min(seconds, self._seconds)
        if limit <= 0:
            raise StoreError("no time was left to ask the profile store")
        asked = self.breaker.clock()
        try:
            async with asyncio.timeout(limit):
                standing = await self._users.read(user_id)
        except TimeoutError:
            if limit >= self._seconds:  # a client's short deadline is not the store's fault
                self.breaker.failed(asked)
            raise StoreError(f"the profile store did not answer within {limit * 1000:.0f} ms") from None
        except Exception as error:
            self.breaker.failed(asked)
            raise StoreError(f"the profile store failed ({type(error).__name__})") from None
        self.breaker.succeeded()
        return standing

    async def close(self) -> None:
        await self._users.close()
