"""Clients of a platform under chaos: what they ask, what they see, and which of it may not be."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from dataclasses import dataclass, field
from typing import Any

import httpx

from serving.deployment.rollout_stage import registered_version
from serving.edge.rollout_trial import STAGE_CHECK_SECONDS

REQUESTS_PER_SECOND = 20
ATTEMPTS, ATTEMPT_SECONDS = 10, 0.5  # of a request whose connection breaks, as a load balancer repeats it
GRACE_SECONDS = 2 * STAGE_CHECK_SECONDS  # in which the edge's processes notice a new stage
PERSONAL = ("personalized", "segment", "cached")


@dataclass(frozen=True)
class Seen:
    """One request and what came back; times on the monotonic clock."""

    sent: float
    user: str
    status: int  # 0: no answer
    attempts: int
    answer: dict[str, Any]


@dataclass
class Expectations:
    """What may answer, and who has refused, each since a moment."""

    versions: list[tuple[float, frozenset[str]]] = field(default_factory=list)  # registered versions
    refused: dict[str, float] = field(default_factory=dict)

    def allow(self, *versions: str) -> None:
        self.versions.append((time.monotonic(), frozenset(versions)))

    def is_wrong_version(self, seen: Seen) -> bool:
        """Whether a model answered that may not. The edge's own lists of popular items say whose they are."""
        if seen.status != 200 or (seen.answer["cache"] == "none" and seen.answer["source"] not in PERSONAL):
            return False
        standing = [allowed for since, allowed in self.versions if since <= seen.sent]
        just = [allowed for since, allowed in self.versions if seen.sent - GRACE_SECONDS <= since <= seen.sent]
        allowed = frozenset().union(*standing[-1 - len(just) :])
        return registered_version(seen.answer["model_version"]) not in allowed

    def is_lost_refusal(self, seen: Seen) -> bool:
        return seen.status == 200 and self.refused.get(seen.user, float("inf")) < seen.sent and (
            seen.answer["source"] in PERSONAL or bool(seen.answer["segments"])
        )  # fmt: skip


class Traffic(threading.Thread):
    """Requests recommendations for one user after another at a steady rate until `close`."""

    def __init__(self, url: str, key: str, users: list[str]) -> None:
        super().__init__(daemon=True)
        self._url, self._key, self._users = f"{url}/v1/recommendations", key, users
        self._closing = threading.Event()
        self.seen: list[Seen] = []

    def run(self) -> None:
        asyncio.run(self._ask_all())

    def close(self) -> None:
        self._closing.set()
        self.join()

    async def _ask_all(self) -> None:
        rng = random.Random(0)
        headers = {"authorization": f"Bearer {self._key}"}
        async with (
            httpx.AsyncClient(headers=headers, timeout=10, trust_env=False) as client,
            asyncio.TaskGroup() as tasks,
        ):
            begun, number = time.monotonic(), 0
            while not self._closing.is_set():
                tasks.create_task(self._ask(client, rng.choice(self._users)))
                number += 1
                await asyncio.sleep(max(0.0, begun + number / REQUESTS_PER_SECOND - time.monotonic()))

    async def _ask(self, client: httpx.AsyncClient, user: str) -> None:
        for attempt in range(1, ATTEMPTS + 1):
            sent = time.monotonic()
            try:
                got = await client.post(self._url, json={"user_id": user, "k": 10})
            except httpx.HTTPError:
                await asyncio.sleep(ATTEMPT_SECONDS)
                continue
            self.seen.append(Seen(sent, user, got.status_code, attempt, got.json() if got.status_code == 200 else {}))
            return
        self.seen.append(Seen(sent, user, 0, ATTEMPTS, {}))
