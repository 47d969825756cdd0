"""Follows the stage's file, keeps this process's counts beside it, and rolls back when a limit is passed.

Each process counts for itself. One of them, whichever holds a lock, judges the sum: the others see the stage move.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO

from serving.deployment import deployment_log, rollback, rollout_evidence, rollout_stage
from serving.deployment.rollout_evidence import Evidence
from serving.deployment.rollout_stage import Stage, StageError
from serving.edge.trial import Trial

log = logging.getLogger(__name__)

LOOK_SECONDS = 0.1  # a rollback reaches everybody within this
COUNT_SECONDS = 0.5


class Watch:
    """Args:
    place: of the stage.
    trial: that is told of it.
    on_rollback: called when this process ordered one.
    """

    def __init__(self, place: Path, trial: Trial, on_rollback: Callable[[], None] = lambda: None) -> None:
        self._place, self._trial, self._on_rollback = place, trial, on_rollback
        self._own = rollout_evidence.folder(place) / f"{os.getpid()}-{time.time_ns()}.json"  # a pid alone comes again
        self._known: tuple[int, int] | None = None
        self._judged: tuple[str, int] = ("", 0)
        self._lock: IO[str] | None = None
        self._well = True

    async def run(self) -> None:
        """Until cancelled."""
        counted = 0.0
        while True:
            self.look()
            if self._trial.running and time.monotonic() - counted >= COUNT_SECONDS:
                counted = time.monotonic()
                await self._count()
            await asyncio.sleep(LOOK_SECONDS)

    def look(self) -> None:
        """Enter the stage of the file, if that is another than before."""
        try:
            about = self._place.stat()
            changed = about.st_mtime_ns, about.st_ino
        except OSError:
            changed = None
        if changed == self._known:
            return
        try:
            self._trial.enter(rollout_stage.read(self._place))
            self._known = changed
        except StageError as error:  # what was known of it still holds
            if self._well:
                log.error("%s", error)
            self._well = False

    async def _count(self) -> None:
        standing, seen = self._trial.stage, self._trial.seen
        assert standing is not None
        told = Evidence()
        told.add(seen)  # a copy: the thread writes it while answers are counted on
        try:
            await asyncio.to_thread(self._keep_and_judge, standing, told)
        except Exception:  # a full disk: the trial waits, and answers go on
            if self._well:
                log.exception("what is seen of the trial is not kept")
            self._well = False
        else:
            self._well = True

    def _keep_and_judge(self, standing: Stage, seen: Evidence) -> None:
        step = standing.since.isoformat()
        rollout_evidence.write(self._own, step, seen)
        if not self._is_judge() or standing.plan is None:
            return
        whole = rollout_evidence.total(self._place, step)
        nth = rollout_evidence.look(whole)
        if (step, nth) == self._judged or nth == 0:
            return
        self._judged = step, nth
        fault = rollout_evidence.passed(whole, standing.plan)
        if fault is not None and rollout_stage.move(
            self._place, standing, rollback.back(standing, fault, deployment_log.who())
        ):
            log.warning("rolled back from %s: %s", standing.version, fault)
            self._on_rollback()

    def _is_judge(self) -> bool:
        """Whether this process judges; a lock of one that died is free."""
        if self._lock is not None:
            return True
        file = self._place.with_suffix(".judge").open("w")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.close()
            return False
        self._lock = file
        return True

    def close(self) -> None:
        if self._lock is not None:
            self._lock.close()
