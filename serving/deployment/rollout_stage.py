"""The stage of a dataset's serving: which version is rolled out, how far it has come, and what it replaces.

    shadow ─► canary (each share) ─► switch ─► serves
       └─────────┴──────────────────────┴────────┴────► rollback ─► serves (the version before)

The stage is one small file beside TorchServe. It is replaced atomically, and written before what it states is done: if a
process is killed, the next one knows what was intended. The edge reads it to know which users each version answers.
"""

from __future__ import annotations

import os
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path

from filelock import FileLock
from pydantic import BaseModel, ConfigDict, ValidationError

from config.command import UserError
from config.params import Rollout
from config.paths import DEPLOYMENTS
from serving.deployment import deployment_log, rollout_evidence
from serving.deployment.deployment_log import DeploymentEvent
from serving.deployment.rollout_evidence import RolloutEvidence
from serving.settings import ServerSettings


class StageError(UserError):
    """The stage's file cannot be read."""


class Phase(StrEnum):
    """How far a version has come."""

    SHADOW = "shadow"  # it answers copies of requests, which no user sees
    CANARY = "canary"  # it answers a share of the users
    SWITCH = "switch"  # it answers all users, and is to become TorchServe's default
    SERVES = "serves"
    ROLLBACK = "rollback"  # the version before it answers all users, and is to become the registry's champion


class RolloutStage(BaseModel):
    """The stage. Versions are named as in TorchServe: 2.0 is the first archive of registered version 2.

    Attributes:
        version: the version that serves, or is to serve.
        previous: the version that served before it and is still loaded; None if there is none.
        since: when this phase or step began.
        share: share of the users whom `version` answers in its canary.
        step: position in the plan's canary shares, from 0.
        rollback_reason: why `previous` was rolled back from; empty if it was not.
        plan: the plan by which `version` is rolled out.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    dataset: str
    phase: Phase
    version: str
    previous: str | None
    since: datetime
    reason: str
    by: str
    share: float = 0.0
    step: int = 0
    rollback_reason: str = ""
    plan: Rollout | None = None

    @property
    def on_trial(self) -> bool:
        """Whether `version` is on trial beside `previous`."""
        return self.phase in (Phase.SHADOW, Phase.CANARY) and self.plan is not None and self.previous is not None

    def event(self) -> DeploymentEvent:
        """The event of this stage in the deployment log."""
        event = f"{self.phase} {100 * self.share:g}%" if self.share else str(self.phase)
        before, after = self.previous, self.version
        if self.phase is Phase.ROLLBACK:
            before, after = after, before
        result = "done" if self.phase is Phase.SERVES else "begun"
        return DeploymentEvent(self.since.isoformat(), self.dataset, event, before, after, self.reason, self.by, result)


def utc_now() -> datetime:
    return datetime.now(UTC)


def registered_version(version: str) -> str:
    """The registered version of an archive: 2.1 -> 2."""
    return version.partition(".")[0]


def stage_path(dataset: str, settings: ServerSettings) -> Path:
    """The stage's file of a dataset; the deployment log and the edge's evidence lie beside it."""
    return settings.state / DEPLOYMENTS / f"{dataset}.json"


def log_path(stage_path: Path) -> Path:
    """The deployment log beside a stage's file."""
    return stage_path.with_suffix(".jsonl")


def read_stage(path: Path) -> RolloutStage | None:
    """The stage; None before the first.

    Raises:
        StageError: the file cannot be read.
    """
    try:
        return RolloutStage.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValidationError) as error:
        line = " ".join(str(error).split())[:200]
        raise StageError(f"{path} is not the stage of a rollout; remove it and deploy again: {line}") from None


def replace_stage(path: Path, old: RolloutStage | None, new: RolloutStage) -> bool:
    """Replace `old` by `new` durably; False if the file holds another stage than `old` by now.

    The deployment log gets the event of `new`, and that of `old` if its writer was killed before it wrote it.
    """
    log = log_path(path)
    with _lock(path):
        if read_stage(path) != old:
            return False
        if old is not None:
            deployment_log.append_once(log, old.event())
        _write_durably(path, new.model_dump_json(indent=1).encode())
        deployment_log.append_once(log, new.event())
        return True


def log_event(path: Path, event: DeploymentEvent) -> None:
    """Log an event that does not change the stage, such as a failed deployment."""
    with _lock(path):
        deployment_log.append_once(log_path(path), event)


def missing_for_next_step(stage: RolloutStage, evidence: RolloutEvidence, now: datetime) -> list[str]:
    """What is missing before a version on trial takes its next step, in words; empty for nothing."""
    plan = stage.plan
    assert plan is not None
    in_shadow = stage.phase is Phase.SHADOW
    missing = []
    seconds = plan.shadow_seconds if in_shadow else plan.bake_seconds
    if (remaining := seconds - (now - stage.since).total_seconds()) > 0:
        missing.append(f"{remaining:.0f} s")
    if in_shadow and evidence.compared < plan.shadow_requests:
        missing.append(f"{plan.shadow_requests - evidence.compared} more comparisons")
    if not in_shadow and evidence.candidate.calls < plan.min_requests:
        missing.append(f"{plan.min_requests - evidence.candidate.calls} more requests")
    if not missing and (figure := rollout_evidence.questionable_figure(evidence, plan)):
        missing.append(f"better figures: {figure}")
    return missing


def next_stage(stage: RolloutStage, now: datetime) -> RolloutStage:
    """The stage after this step of a trial."""
    plan = stage.plan
    assert plan is not None
    step = 0 if stage.phase is Phase.SHADOW else stage.step + 1
    if step < len(plan.canary):
        changes = {"phase": Phase.CANARY, "step": step, "share": plan.canary[step]}
    else:
        changes = {"phase": Phase.SWITCH, "step": 0, "share": 0.0}
    return stage.model_copy(update={"since": now, **changes})


def describe_stage(stage: RolloutStage) -> str:
    """The stage in words."""
    match stage.phase:
        case Phase.SHADOW:
            return f"shadow: {stage.version} answers copies of requests"
        case Phase.CANARY:
            return f"canary: {stage.version} answers {100 * stage.share:g}% of the users"
        case Phase.SWITCH:
            return f"switch: {stage.version} becomes the default"
        case Phase.SERVES:
            return f"none: {stage.version} serves all users"
        case Phase.ROLLBACK:
            return f"rollback: {stage.previous} answers, and becomes champion again"


def describe_next_step(stage: RolloutStage, evidence: RolloutEvidence, now: datetime) -> str:
    """What happens next, and what it waits for."""
    if stage.phase is Phase.SERVES:
        return "nothing, until the registry names another champion"
    if not stage.on_trial:
        return "`python -m serving.deploy` completes it"
    condition = " and ".join(missing_for_next_step(stage, evidence, now)) or "`python -m serving.rollout` runs"
    rollback = f"; if it exceeds a limit, {stage.previous} answers all users at once"
    return f"{describe_stage(next_stage(stage, now))}, after {condition}{rollback}"


def _lock(path: Path) -> FileLock:
    """Lets one process at a time change the stage, for milliseconds: a rollback never waits for a deployment."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(path.with_suffix(".lock"))


def _write_durably(path: Path, content: bytes) -> None:
    """Replace a file atomically, flushed to disk together with its name."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    with partial.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
