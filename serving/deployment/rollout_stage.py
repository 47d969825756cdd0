"""The stage of a dataset's rollout: which version is rolled out, how far it has come, and what it replaces.

    shadow ─► canary (each share) ─► switch ─► serves
       └─────────┴──────────────────────┴────────┴────► rollback ─► serves (the version before)

The stage is one small file, which the edge reads, too. It is replaced atomically, and written before what it states is
done: if a process is killed, the next one knows what was intended. The log next to it has one JSON line per event.
"""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path

from filelock import FileLock
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from config import files
from config.command import UserError
from config.current_user import current_user
from config.params import Rollout
from config.paths import DEPLOYMENTS
from serving.deployment import rollout_evidence
from serving.deployment.rollout_evidence import RolloutEvidence
from serving.settings import ServerSettings


class StageError(UserError):
    """The stage's file cannot be read."""


class RollbackError(UserError):
    """There is no version to roll back to."""


class Phase(StrEnum):
    """How far a version has come."""

    SHADOW = "shadow"  # it answers copies of requests, which no user sees
    CANARY = "canary"  # it answers a share of the users
    SWITCH = "switch"  # it becomes TorchServe's default; after a trial the edge asks it for all users already
    SERVES = "serves"
    ROLLBACK = "rollback"  # the version before it answers all users, and is to become the registry's champion


PREVIOUS_SERVES = (Phase.SHADOW, Phase.CANARY, Phase.ROLLBACK)


class DeploymentEvent(BaseModel):
    """One event of the deployment log. Versions are named as in TorchServe; None if there is none."""

    model_config = ConfigDict(frozen=True, populate_by_name=True)

    time: str
    dataset: str
    event: str
    before: str | None = Field(alias="from")
    after: str | None = Field(alias="to")
    reason: str
    by: str
    result: str


class RolloutStage(BaseModel):
    """The stage. Versions are named as in TorchServe: 2.0 is the first archive of registered version 2."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    dataset: str
    phase: Phase
    version: str  # that serves, or is to serve
    previous: str | None  # that served before it and is still loaded
    since: datetime  # when this phase or step began
    reason: str
    by: str
    share: float = 0.0  # of the users that `version` answers in its canary
    step: int = 0  # position in the plan's canary shares
    rollback_reason: str = ""  # why `previous` was rolled back from; empty if it was not
    forced: bool = False  # of a rollback: to a version that a rollback removed
    plan: Rollout | None = None  # by which `version` is rolled out
    serial: int = 0  # of the newest decision that this host has seen (serving/deployment/decisions.py)
    entry: str = ""  # its hash

    @property
    def on_trial(self) -> bool:
        """Whether `version` is on trial next to `previous`."""
        return self.phase in (Phase.SHADOW, Phase.CANARY) and self.plan is not None and self.previous is not None

    def event(self) -> DeploymentEvent:
        """The event of this stage in the deployment log."""
        is_rollback = self.phase is Phase.ROLLBACK
        return DeploymentEvent(
            time=self.since.isoformat(),
            dataset=self.dataset,
            event=f"{self.phase} {100 * self.share:g}%" if self.share else str(self.phase),
            before=self.version if is_rollback else self.previous,
            after=self.previous if is_rollback else self.version,
            reason=self.reason,
            by=self.by,
            result="done" if self.phase is Phase.SERVES else "begun",
        )


def utc_now() -> datetime:
    return datetime.now(UTC)


def registered_version(version: str) -> str:
    """The registered version of an archive: 2.1 -> 2."""
    return version.partition(".")[0]


def stage_path(dataset: str, settings: ServerSettings) -> Path:
    """The stage's file of a dataset; the deployment log and the edge's evidence lie next to it."""
    return settings.state / DEPLOYMENTS / f"{dataset}.json"


def read_stage(path: Path) -> RolloutStage | None:
    """The stage; None before the first. Raises StageError if the file cannot be read."""
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
    with _lock(path):
        if read_stage(path) != old:
            return False
        if old is not None:
            append_once(path, old.event())
        files.write_bytes(path, new.model_dump_json(indent=1).encode())
        append_once(path, new.event())
        return True


def log_failure(path: Path, reason: str) -> None:
    """Log a deployment that failed and left the stage as it was."""
    facts = {"time": utc_now().isoformat(), "dataset": path.stem, "reason": reason, "by": current_user()}
    with _lock(path):
        append_once(path, DeploymentEvent(event="deploy", before=None, after=None, result="failed", **facts))


def append_once(path: Path, event: DeploymentEvent) -> None:
    """Append an event to the log next to a stage, unless the log holds it. The caller holds the lock.

    An event that only repeats the last one, such as a deployment that fails every minute, is written once.
    """
    events = read_events(path)
    if event in events or (events and events[-1].model_copy(update={"time": event.time}) == event):
        return
    files.append_lines(path.with_suffix(".jsonl"), f"{event.model_dump_json(by_alias=True)}\n".encode())


def read_events(path: Path) -> list[DeploymentEvent]:
    """The deployment log next to a stage, oldest event first. Lines that cannot be read are left out."""
    log = path.with_suffix(".jsonl")
    return _parse_events(log.read_text(encoding="utf-8", errors="replace")) if log.exists() else []


def order_rollback(path: Path, reason: str, by: str, force: bool = False) -> RolloutStage:
    """Write to the stage that the previous version is to serve; every deployment then makes it so.

    Raises:
        RollbackError: nothing was deployed, there is no previous version, or the last rollback removed it and `force`
            is not set.
    """
    while True:
        stage = read_stage(path)
        if stage is None:
            raise RollbackError(f"{path.stem} was never deployed here, so there is nothing to roll back")
        if stage.phase is Phase.ROLLBACK and (stage.forced or not force):
            return stage
        if stage.previous is None:
            raise RollbackError(f"no version before {path.stem} {stage.version} is loaded, so none can answer")
        if stage.rollback_reason and not force:
            raise RollbackError(
                f"the last rollback removed {stage.previous} ({stage.rollback_reason}); --force makes it serve again"
            )
        ordered = rollback_stage(stage, reason, by).model_copy(update={"forced": force})
        if replace_stage(path, stage, ordered):
            return ordered


def rollback_stage(stage: RolloutStage, reason: str, by: str) -> RolloutStage:
    """The stage that orders a rollback from `stage.version` to `stage.previous`."""
    changes = {"phase": Phase.ROLLBACK, "since": utc_now(), "reason": reason, "by": by, "share": 0.0, "step": 0}
    return stage.model_copy(update=changes)


def rolled_back_stage(stage: RolloutStage, serial: int, entry: str) -> RolloutStage:
    """The stage after an ordered rollback: the version before serves. `serial` and `entry` are the newest decision."""
    assert stage.previous is not None
    return RolloutStage(
        dataset=stage.dataset, phase=Phase.SERVES, version=stage.previous, previous=stage.version, since=utc_now(),
        reason=f"back from {stage.version}: {stage.reason}", by=stage.by, rollback_reason=stage.reason,
        serial=serial, entry=entry,
    )  # fmt: skip


def accept_decision(path: Path, serial: int, entry: str, decided_at: datetime) -> None:
    """Take a decision as the newest that this host has seen; a rollback that was ordered before it is over."""
    while (stage := read_stage(path)) is not None:
        if stage.phase is Phase.ROLLBACK and stage.previous is not None and stage.since <= decided_at:
            new = rolled_back_stage(stage, serial, entry)
        else:
            new = stage.model_copy(update={"serial": serial, "entry": entry})
        if replace_stage(path, stage, new):
            return


def answering_versions(stage: RolloutStage) -> set[str]:
    """The versions whose answers users may get in this stage."""
    default, other = served_versions(stage)
    if other is not None and stage.phase in (Phase.CANARY, Phase.SWITCH):
        return {default, other}
    return {default}


def served_versions(stage: RolloutStage) -> tuple[str, str | None]:
    """The version that a stage makes the default, and the one that is loaded next to it."""
    if stage.phase in PREVIOUS_SERVES and stage.previous is not None:
        return stage.previous, stage.version
    return stage.version, stage.previous


def missing_for_next_step(stage: RolloutStage, evidence: RolloutEvidence, now: datetime) -> list[str]:
    """What is missing before a version on trial takes its next step, in words; empty for nothing."""
    plan = stage.plan
    assert plan is not None
    if stage.phase is Phase.SHADOW:
        seconds, lacking, what = plan.shadow_seconds, plan.shadow_requests - evidence.compared, "comparisons"
    else:
        seconds, lacking, what = plan.bake_seconds, plan.min_requests - evidence.candidate.calls, "requests"
    remaining = seconds - (now - stage.since).total_seconds()
    missing = [f"{remaining:.0f} s"] if remaining > 0 else []
    if lacking > 0:
        missing.append(f"{lacking} more {what}")
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
    return {
        Phase.SHADOW: f"shadow: {stage.version} answers copies of requests",
        Phase.CANARY: f"canary: {stage.version} answers {100 * stage.share:g}% of the users",
        Phase.SWITCH: f"switch: {stage.version} becomes the default",
        Phase.SERVES: f"none: {stage.version} serves all users",
        Phase.ROLLBACK: f"rollback: {stage.previous} answers, and becomes champion again",
    }[stage.phase]


def describe_next_step(stage: RolloutStage, evidence: RolloutEvidence, now: datetime) -> str:
    """What happens next, and what it waits for."""
    if stage.phase is Phase.SERVES:
        return "nothing, until the registry names another champion"
    if not stage.on_trial:
        return f"`python -m serving.deploy{' --settle' if stage.phase is Phase.ROLLBACK else ''}` completes it"
    condition = " and ".join(missing_for_next_step(stage, evidence, now)) or "`python -m serving.rollout` runs"
    rollback = f"; if it exceeds a limit, {stage.previous} answers all users at once"
    return f"{describe_stage(next_stage(stage, now))}, after {condition}{rollback}"


def _lock(path: Path) -> FileLock:
    """Lets one process at a time change the stage, for milliseconds: a rollback never waits for a deployment."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(path.with_suffix(".lock"))


def _parse_events(text: str) -> list[DeploymentEvent]:
    events = []
    for line in text.split("\n"):
        with suppress(ValidationError):  # the last line, if its writer was killed
            events.append(DeploymentEvent.model_validate_json(line))
    return events
