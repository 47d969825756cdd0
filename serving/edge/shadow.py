"""Requests that were answered, put to a version on trial as well: later, by one task, for nobody to wait for."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

import orjson

from serving.edge.answer import Answer
from serving.edge.errors import NoAnswer, Refusal
from serving.edge.trial import Trial

log = logging.getLogger(__name__)

COMPARED, FAILED, DROPPED = "compared", "failed", "dropped"


class Shadow:
    """One request at a time; those that come meanwhile wait, up to a number, and further ones are dropped.

    Args:
        most: that may wait.
        seconds: that an answer may take.
        count: told how each ended: compared, failed or dropped.
    """

    def __init__(self, trial: Trial, most: int, seconds: float, count: Callable[[str], None]) -> None:
        self._trial, self._seconds, self._count = trial, seconds, count
        self._waiting: asyncio.Queue[tuple[bytes, Answer]] = asyncio.Queue(most)
        self._due = 0.0

    def offer(self, wire: bytes, answer: Answer) -> None:
        """Take the plan's share of the requests that the champion has just answered; evenly, as they come."""
        standing = self._trial.stage
        if standing is None or standing.plan is None or not self._trial.running or answer.version != standing.previous:
            return
        self._due += standing.plan.shadow_share
        if self._due < 1:
            return
        self._due -= 1
        try:
            self._waiting.put_nowait((wire, answer))
        except asyncio.QueueFull:
            self._count(DROPPED)

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            wire, answer = await self._waiting.get()
            try:
                self._count(await self._compare(wire, answer))
            except Exception:  # the task must outlive whatever one request brings
                log.exception("a shadowed request failed")
                self._count(FAILED)

    async def _compare(self, wire: bytes, answer: Answer) -> str:
        trial = self._trial
        standing, seen = trial.stage, trial.seen
        if standing is None or not trial.running or answer.version != standing.previous:
            return DROPPED  # the trial went on while it waited
        try:
            fields = await trial.ask_candidate(wire, standing.version, self._seconds)
        except (NoAnswer, Refusal):
            return FAILED
        if fields["model_version"] != standing.version:
            return FAILED
        given = orjson.loads(answer.receipt + b"}")["items"]
        seen.compare(given, [item["item_id"] for item in fields["items"]])
        return COMPARED
