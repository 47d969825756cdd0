"""A version on trial next to the champion: which users it answers, what is counted of both, and when it is rolled back.

Experiments assign users to arms in the same way.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any, NamedTuple

import orjson
from filelock import FileLock, Timeout

from config.current_user import current_user
from serving.deployment import rollout_evidence, rollout_stage
from serving.deployment.rollout_evidence import RolloutEvidence, VersionCounts
from serving.deployment.rollout_stage import Phase, RolloutStage, StageError
from serving.edge.answer import Answer
from serving.edge.settings import Arm
from serving.edge.torchserve_client import MIN_SECONDS, NOT_COUNTED, REQUEST_FAILED, NoAnswer, TorchServeClient
from web.errors import ApiError

log = logging.getLogger(__name__)

CANARY, CHAMPION = "canary", "champion"
STAGE_CHECK_SECONDS = 0.1  # a rollback reaches every process within this
EVIDENCE_SECONDS = 0.5
COMPARED, FAILED, DROPPED = "compared", "failed", "dropped"
FLOAT_BITS = 53  # of a float that are exact


class Bucket(NamedTuple):
    """A user's arm, the version that answers there, and the experiment; None where there is none."""

    arm: str | None
    version: str | None
    experiment: str | None = None


NO_BUCKET = Bucket(None, None)


class ArmSplit:
    """Assigns users to arms by a hash, so that nothing is stored and a user stays in one arm.

    Arms lie on [0, 1) in the order of their declaration. A first arm that grows keeps its users, so a canary is
    declared first. The name salts the hash: two experiments split users independently.
    """

    def __init__(self, name: str, arms: Mapping[str, Arm]) -> None:
        self.name = name or None
        self.versions = {arm.version for arm in arms.values() if arm.version is not None}
        self._salt = name.encode()
        self._ends: list[tuple[float, Bucket]] = []
        end = 0.0
        for arm_name, arm in arms.items():
            end += arm.share
            self._ends.append((end, Bucket(arm_name, arm.version, self.name)))

    def bucket(self, user_id: str) -> Bucket:
        """The user's arm."""
        if not self._ends:
            return NO_BUCKET
        content = len(self._salt).to_bytes(8, "big") + self._salt + user_id.encode("utf-8", "surrogatepass")
        number = int.from_bytes(blake2b(content, digest_size=8).digest(), "big")
        point = (number >> (64 - FLOAT_BITS)) / (1 << FLOAT_BITS)  # in [0, 1), the same on every machine
        last = self._ends[-1][1]  # shares may sum to 1 - 1e-16
        return next((bucket for end, bucket in self._ends if point < end), last)


@dataclass
class RolloutTrial:
    """Asks the version that a user belongs to, and counts calls while a version is on trial.

    The version on trial has connections and a circuit breaker of its own: its failures are no reason to leave the
    champion alone, and a request that meets one is answered by the champion in the time that is left.
    """

    champion: TorchServeClient  # asks the default version, and those of the experiment
    candidate: TorchServeClient  # asks the version on trial
    experiment: ArmSplit  # assigns the users outside the trial
    stage: RolloutStage | None = None
    evidence: RolloutEvidence = field(default_factory=RolloutEvidence)
    _arms: ArmSplit | None = None
    _counted_users: set[tuple[str, str]] = field(default_factory=set)  # in this stage: what was counted, and whose key

    @property
    def is_running(self) -> bool:
        """Whether calls are counted."""
        return self.stage is not None and self.stage.on_trial

    def may_answer(self, version: str) -> bool:
        """Whether a cached or popular answer of a version may be given: the stage no longer wants what it replaced or rolled back."""
        stage = self.stage
        if stage is None:  # nothing was deployed from here, so nothing says otherwise
            return True
        return version in rollout_stage.answering_versions(stage) or version in self.experiment.versions

    def enter(self, new: RolloutStage | None) -> None:
        """Follow the rollout to a stage. Counts begin anew with each stage."""
        if new == self.stage:
            return
        self.stage, self.evidence, self._arms, self._counted_users = new, RolloutEvidence(), None, set()
        if new is None or new.plan is None or new.phase not in (Phase.CANARY, Phase.SWITCH):
            return  # a switch without a trial is TorchServe's alone
        share = new.share if new.phase is Phase.CANARY else 1.0
        arms = {CANARY: Arm(share=share, version=new.version), CHAMPION: Arm(share=1 - share)}
        # Salted by the version only: its users stay as shares grow, and the next version begins with others.
        self._arms = ArmSplit(f"rollout-{new.version}", arms)

    def bucket(self, user_id: str) -> Bucket:
        """The canary takes its share of all users; the others belong to the experiment, where there is one."""
        if self._arms is None:
            return self.experiment.bucket(user_id)
        bucket = self._arms.bucket(user_id)
        if bucket.arm == CANARY:
            return bucket
        experiment = self.experiment.bucket(user_id)
        return bucket if experiment.arm is None else experiment

    def loaded_version(self, version: str | None) -> str | None:
        """See `TorchServeClient.loaded_version`."""
        return (self.candidate if self._is_on_trial(version) else self.champion).loaded_version(version)

    def is_evidence(self, what: str, key_user: str | None) -> bool:
        """Whether to count a request: with an API key for one user, only the first in a stage.

        Or the requests of one user, which may be slow for every version, could make up most of the evidence.
        """
        if key_user is None or not self.is_running:
            return True
        is_first = (what, key_user) not in self._counted_users
        self._counted_users.add((what, key_user))
        return is_first

    async def recommend(self, body: bytes, version: str | None, seconds: float, counted: bool = True) -> dict[str, Any]:
        """See `TorchServeClient.recommend`; `counted` says whether the call is evidence."""
        if not self._is_on_trial(version):
            counts = self.evidence.champion if counted and version is None and self.is_running else None
            return await _counted_call(self.champion, counts, body, version, seconds)
        counts = self.evidence.candidate if counted else None
        begun = time.monotonic()
        try:
            return await _counted_call(self.candidate, counts, body, version, seconds)
        except NoAnswer as error:
            kind, spent = error.kind, time.monotonic() - begun
            if seconds - spent < MIN_SECONDS:
                raise
        # Not counted: what the champion takes with the time that is left is no fair measure.
        fields = await self.champion.recommend(body, None, seconds - spent)
        if kind == REQUEST_FAILED and counts is not None:  # and the champion can answer this request
            counts.count(True, spent)
        return fields

    async def ask_candidate(self, body: bytes, version: str | None, seconds: float) -> dict[str, Any]:
        """Ask the version on trial what the champion has answered, and count the call."""
        counts, begun = self.evidence.candidate, time.monotonic()
        try:
            return await _counted_call(self.candidate, counts, body, version, seconds)
        except NoAnswer as error:
            if error.kind == REQUEST_FAILED:
                counts.count(True, time.monotonic() - begun)
            raise

    async def close(self) -> None:
        await self.champion.close()
        await self.candidate.close()

    def _is_on_trial(self, version: str | None) -> bool:
        return self._arms is not None and self.stage is not None and version == self.stage.version


async def _counted_call(
    client: TorchServeClient, counts: VersionCounts | None, body: bytes, version: str | None, seconds: float
) -> dict[str, Any]:
    """See `TorchServeClient.recommend`. What may be due to the client and not to the version does not count.

    That is: refused requests, those that TorchServe was not asked, those that the worker cannot answer, and all with
    less than the fair time, or a client's short deadlines would be the version's errors.
    """
    if seconds < client.fair_seconds:
        counts = None
    begun = time.perf_counter()
    try:
        fields = await client.recommend(body, version, seconds)
    except NoAnswer as error:
        if counts is not None and error.kind not in NOT_COUNTED:
            counts.count(True, time.perf_counter() - begun)
        raise
    if counts is not None and version in (None, fields["model_version"]):  # else that version is not loaded
        counts.count(False, time.perf_counter() - begun)
    return fields


class ShadowRequests:
    """Sends requests that the champion has answered to the version on trial too: later, one at a time.

    At most `max_waiting` requests wait. `count` is called with how each ended: compared, failed or dropped.
    """

    def __init__(self, trial: RolloutTrial, max_waiting: int, seconds: float, count: Callable[[str], None]) -> None:
        self._trial, self._seconds, self._count = trial, seconds, count
        self._waiting: asyncio.Queue[tuple[bytes, Answer]] = asyncio.Queue(max_waiting)
        self._due = 0.0

    def offer(self, body: bytes, answer: Answer, key_user: str | None) -> None:
        """Take the plan's share of the requests that the champion has just answered, evenly as they come."""
        current = self._trial.stage
        if current is None or current.plan is None or not self._trial.is_running or answer.version != current.previous:
            return
        if not self._trial.is_evidence("shadow", key_user):
            return
        self._due += current.plan.shadow_share
        if self._due < 1:
            return
        self._due -= 1
        try:
            self._waiting.put_nowait((body, answer))
        except asyncio.QueueFull:
            self._count(DROPPED)

    async def run(self) -> None:
        """Compare until cancelled."""
        while True:
            body, answer = await self._waiting.get()
            try:
                self._count(await self._compare(body, answer))
            except Exception:  # the task must outlive whatever one request brings
                log.exception("a shadow request failed")
                self._count(FAILED)

    async def _compare(self, body: bytes, answer: Answer) -> str:
        trial = self._trial
        current, counts = trial.stage, trial.evidence
        if current is None or not trial.is_running or answer.version != current.previous:
            return DROPPED  # the trial went on while the request waited
        try:
            fields = await trial.ask_candidate(body, current.version, self._seconds)
        except (NoAnswer, ApiError):
            return FAILED
        if fields["model_version"] != current.version:
            return FAILED
        champion_items = orjson.loads(answer.log_entry + b"}")["items"]
        counts.compare(champion_items, [item["item_id"] for item in fields["items"]])
        return COMPARED


class RolloutWatch:
    """Follows the stage's file, writes this process's counts next to it, and rolls back when a limit is passed.

    Each process counts for itself. The one that holds a lock judges the sum; the others see the stage change.
    """

    def __init__(self, path: Path, trial: RolloutTrial, on_rollback: Callable[[], None]) -> None:
        self._path, self._trial, self._on_rollback = path, trial, on_rollback
        name = f"{os.getpid()}-{time.time_ns()}.json"  # process numbers come again
        self._evidence_file = rollout_evidence.evidence_folder(path) / name
        self._file_version: tuple[int, int] | None = None
        self._judged: tuple[str, int] = ("", 0)
        self._unwritten: tuple[RolloutStage, RolloutStage] | None = (
            None  # a stage, and its rollback that holds here only
        )
        # The lock is taken in worker threads, and a process that dies releases it.
        self._judge_lock = FileLock(path.with_suffix(".judge"), blocking=False, thread_local=False)
        self._healthy = True

    async def run(self) -> None:
        """Watch until cancelled."""
        counted = 0.0
        while True:
            self.check_stage()
            if (self._trial.is_running or self._unwritten) and time.monotonic() - counted >= EVIDENCE_SECONDS:
                counted = time.monotonic()
                await self._report()
            await asyncio.sleep(STAGE_CHECK_SECONDS)

    def check_stage(self) -> None:
        """Enter the stage of the file if the file changed."""
        try:
            stat = self._path.stat()
            version = stat.st_mtime_ns, stat.st_ino
        except OSError:
            version = None
        if version == self._file_version:
            return
        try:
            self._trial.enter(rollout_stage.read_stage(self._path))
            self._file_version, self._unwritten = version, None
        except StageError as error:  # the last known stage still holds
            if self._healthy:
                log.error("%s", error)
            self._healthy = False

    def close(self) -> None:
        self._judge_lock.release(force=True)

    async def _report(self) -> None:
        current = self._trial.stage
        assert current is not None
        counts = deepcopy(self._trial.evidence)  # a thread writes it while requests are counted on
        try:
            if self._unwritten is not None:
                await asyncio.to_thread(rollout_stage.replace_stage, self._path, *self._unwritten)
            else:
                await asyncio.to_thread(self._write_and_judge, current, counts)
        except Exception:  # a full disk: the trial waits or is rolled back in this process, and answers go on
            if self._healthy:
                log.exception("the counts of the trial are not written")
            self._healthy = False
        else:
            self._healthy = True
        if self._unwritten is not None:
            self._trial.enter(self._unwritten[1])

    def _write_and_judge(self, current: RolloutStage, counts: RolloutEvidence) -> None:
        step = current.since.isoformat()
        try:
            rollout_evidence.write_evidence(self._evidence_file, step, counts)
            self._judge_lock.acquire()  # or it is this process's already
        except Timeout:
            return
        except OSError:  # a full disk: each process judges what it counted itself
            self._judge(current, counts)
            raise
        self._judge(current, rollout_evidence.total_evidence(self._path, step))

    def _judge(self, current: RolloutStage, total: RolloutEvidence) -> None:
        step, look = current.since.isoformat(), rollout_evidence.number_of_looks(total)
        if (step, look) == self._judged or look == 0 or current.plan is None:
            return
        self._judged = step, look
        reason = rollout_evidence.exceeded_limit(total, current.plan)
        if reason is None:
            return
        rollback = rollout_stage.rollback_stage(current, reason, current_user())
        try:
            is_done = rollout_stage.replace_stage(self._path, current, rollback)
        except OSError:  # it holds in this process until it can be written
            self._unwritten, is_done = (current, rollback), True
        if is_done:
            log.warning("rolled back from %s: %s", current.version, reason)
            self._on_rollback()
