"""The way down, where an HTTP request cannot yet bring it about."""

from __future__ import annotations

import asyncio
from typing import Any

from fake_torchserve import recommendations

from serving.circuit_breaker import Breaker
from serving.edge.answer import read
from serving.edge.cache import MemoryCache
from serving.edge.consent import Guarded, Memory, Standing
from serving.edge.errors import Failed
from serving.edge.experiment import NOBODY, Bucket
from serving.edge.ladder import Ask, Ladder
from serving.edge.listing import EMPTY, Listing
from serving.worker.request import Request


class Fickle:
    """An upstream that answers until told to fail."""

    failing = False

    def __init__(self) -> None:
        self.told: list[bytes] = []

    def available(self, version: str | None) -> str | None:
        return version

    def bucket(self, user_id: str) -> Bucket:
        return NOBODY

    async def ask(self, body: bytes, version: str | None, seconds: float) -> dict[str, Any]:
        self.told.append(body)
        if self.failing:
            raise Failed("it fails")
        return recommendations({"user_id": "ann", "k": 5}, "1.0")


def make(upstream: Fickle, users: Memory) -> Ladder:
    listing = Listing.of(recommendations({"k": 9}, "1.0"))
    guarded = Guarded(users, Breaker(5, 1), 1)
    ladder = Ladder(upstream, guarded, MemoryCache(10**6), b"k", EMPTY, 0.1, 0, 3600, unasked=True)
    ladder.popular = listing
    return ladder


async def ask(ladder: Ladder, **body: Any) -> dict[str, Any]:
    request = Request("ann", [], has_history=False, k=3, time_us=0, context={}, request_id=None)
    end = asyncio.get_running_loop().time() + 5
    return read((await ladder.answer(Ask(request, {"user_id": "ann", **body}, None, 5000, end))).answer)


def test_what_a_filter_keeps_away_is_listed_on_no_rung() -> None:
    async def story() -> None:
        upstream = Fickle()
        ladder = make(upstream, Memory())
        await ask(ladder, filters={"genre": ["for children"]})
        upstream.failing = True
        same = await ask(ladder, filters={"genre": ["for children"]})
        assert (same["rung"], len(same["items"])) == ("cached", 3)  # it was answered under the same filter
        other = await ask(ladder, filters={"genre": ["drama"]})
        assert (other["rung"], other["items"]) == ("static", [])
        assert "filters cannot be applied without TorchServe" in other["reason"]
        assert (await ask(ladder))["rung"] == "popular"

    asyncio.run(story())


def test_a_filter_is_no_trait_of_the_user() -> None:
    async def story() -> None:
        upstream = Fickle()
        await ask(make(upstream, Memory({"ann": Standing(False, "")})), filters={"genre": ["drama"]}, context={"a": 1})
        assert upstream.told == [b'{"filters":{"genre":["drama"]},"history":[]}']

    asyncio.run(story())
