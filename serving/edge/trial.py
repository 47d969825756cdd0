"""A version on trial: which users it answers, how it is asked, and what is counted of it and of the one beside it."""

from __future__ import annotations

import time
from typing import Any

from serving.deployment.rollout_evidence import Evidence
from serving.deployment.rollout_stage import Phase, Stage
from serving.edge.errors import NoAnswer
from serving.edge.experiment import Bucket, Experiment
from serving.edge.settings import Arm
from serving.edge.upstream import LEAST_SECONDS, Upstream

CANARY, CHAMPION = "canary", "champion"


class Trial:
    """Stands where an Upstream stands, and where an Experiment stands, in the edge's ladder.

    The version on trial is asked through connections and a breaker of its own: its failures are no reason to leave
    the other alone, and who meets one is answered by the other in the time that is left.

    Args:
        upstream: asks the default version, and those of the experiment.
        candidate: asks the version on trial.
        experiment: takes the users whom the trial does not.
    """

    def __init__(self, upstream: Upstream, candidate: Upstream, experiment: Experiment) -> None:
        self._upstream, self.candidate, self._experiment = upstream, candidate, experiment
        self.breaker = upstream.breaker
        self.stage: Stage | None = None
        self.seen = Evidence()
        self._arms: Experiment | None = None

    def enter(self, standing: Stage | None) -> None:
        """Follow the stage: who is answered by what from now on. Counts of a step begin anew."""
        if standing == self.stage:
            return
        self.stage, self.seen, self._arms = standing, Evidence(), None
        if standing is None or standing.phase not in (Phase.CANARY, Phase.SWITCH):
            return
        share = standing.share if standing.phase is Phase.CANARY else 1.0
        arms = {CANARY: Arm(share=share, version=standing.version), CHAMPION: Arm(share=1 - share)}
        # Salted by the version alone: its users stay as shares grow, and the next one begins with others.
        self._arms = Experiment(f"rollout-{standing.version}", arms)

    @property
    def running(self) -> bool:
        """Whether calls are counted."""
        return self.stage is not None and self.stage.tried

    def bucket(self, user_id: str) -> Bucket:
        """The canary's users are the trial's; the others the experiment's, where there is one."""
        if self._arms is None:
            return self._experiment.bucket(user_id)
        bucket = self._arms.bucket(user_id)
        if bucket.arm == CANARY:
            return bucket
        own = self._experiment.bucket(user_id)
        return bucket if own.arm is None else own

    def available(self, version: str | None) -> str | None:
        """As Upstream's."""
        return (self.candidate if self._is_tried(version) else self._upstream).available(version)

    async def ask(self, body: bytes, version: str | None, seconds: float, counted: bool = True) -> dict[str, Any]:
        """As Upstream's; `counted` says whether a user asks."""
        end = time.monotonic() + seconds
        if self._is_tried(version):
            try:
                return await self.ask_candidate(body, version, seconds)
            except NoAnswer:
                if end - time.monotonic() < LEAST_SECONDS:
                    raise
            version, counted = None, False  # its time is not a fair one
        return await self._ask_champion(body, version, end - time.monotonic(), counted and version is None)

    async def ask_candidate(self, body: bytes, version: str | None, seconds: float) -> dict[str, Any]:
        """Ask the version on trial, and count how that went. A refusal is the client's fault, and no call."""
        begun, seen = time.perf_counter(), self.seen
        try:
            fields = await self.candidate.ask(body, version, seconds)
        except NoAnswer:
            seen.candidate.saw(True, time.perf_counter() - begun)
            raise
        if fields["model_version"] == version:  # else it is not loaded, which its driver sees to
            seen.candidate.saw(False, time.perf_counter() - begun)
        return fields

    def close(self) -> None:
        self._upstream.close()
        self.candidate.close()

    async def _ask_champion(self, body: bytes, version: str | None, seconds: float, counted: bool) -> dict[str, Any]:
        begun, seen = time.perf_counter(), self.seen
        counted = counted and self.running
        try:
            fields = await self._upstream.ask(body, version, seconds)
        except NoAnswer:
            if counted:
                seen.champion.saw(True, time.perf_counter() - begun)
            raise
        if counted:
            seen.champion.saw(False, time.perf_counter() - begun)
        return fields

    def _is_tried(self, version: str | None) -> bool:
        return version is not None and self._arms is not None and version == self.stage.version  # type: ignore[union-attr]
