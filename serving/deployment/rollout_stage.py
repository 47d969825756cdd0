"""Where a data set's serving stands: which version it goes to, how far it has come, and what it replaces.

    shadow ─► canary (each share) ─► switch ─► serves
       └─────────┴──────────────────────┴────────┴────► back ─► serves (the version before)

One small file beside TorchServe, replaced whole. It is written before what it says is done, so that whoever
is killed is followed by somebody who knows what was meant. The edge reads it to tell who is answered by which version.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from config.command import UserError
from config.params import Rollout
from config.paths import DEPLOYMENTS
from serving.deployment import deployment_log, rollout_evidence
from serving.deployment.deployment_log import Entry
from serving.deployment.rollout_evidence import Evidence
from serving.settings import ServerSettings

HISTORY = ".jsonl"


class StageError(UserError):
    """The file holds something that is no stage."""


class Phase(StrEnum):
    """How far a version has come."""

    SHADOW = "shadow"  # it answers copies of requests, for nobody to see
    CANARY = "canary"  # it answers a share of the users
    SWITCH = "switch"  # it answers everybody, and is to become TorchServe's default
    SERVES = "serves"
    BACK = "rollback"  # the version before it answers everybody, and is to become the registry's champion


TRIED = (Phase.SHADOW, Phase.CANARY)  # beside the version before it


class Stage(BaseModel):
    """Versions are as TorchServe names them: 2.0 is the first build of registered version 2.

    Attributes:
        version: that is to serve, or does.
        previous: that served before it, and is loaded; None where there is none.
        share: of the users whom `version` answers in its canary.
        step: of the plan's canary shares, from 0.
        since: when this phase or step began.
        undone: why `previous` was rolled back from, where it was.
        plan: by which `version` is tried.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    dataset: str
    phase: Phase
    version: str
    previous: str | None
    since: datetime
    why: str
    by: str
    share: float = 0.0
    step: int = 0
    undone: str = ""
    plan: Rollout | None = None

    @property
    def tried(self) -> bool:
        """Whether `version` is on trial beside `previous`."""
        return self.phase in TRIED and self.plan is not None and self.previous is not None

    def told(self) -> Entry:
        """The history's line of it."""
        what = f"{self.phase} {100 * self.share:g}%" if self.share else str(self.phase)
        before, after = (self.version, self.previous) if self.phase is Phase.BACK else (self.previous, self.version)
        result = "done" if self.phase is Phase.SERVES else "begun"
        return Entry(self.since.isoformat(), self.dataset, what, before, after, self.why, self.by, result)


def now() -> datetime:
    return datetime.now(UTC)


def number(version: str) -> str:
    """The registered version behind a build: 2.1 -> 2."""
    return version.partition(".")[0]


def place(dataset: str, settings: ServerSettings) -> Path:
    """The file of a data set; its neighbours are the history and the edge's evidence."""
    return settings.state / DEPLOYMENTS / f"{dataset}.json"


def read(path: Path) -> Stage | None:
    """The stage, None before the first.

    Raises:
        StageError: the file cannot be read.
    """
    try:
        return Stage.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValidationError) as error:
        line = " ".join(str(error).split())[:200]
        raise StageError(f"{path} is no stage of a rollout; remove it and deploy: {line}") from None


def move(path: Path, old: Stage | None, new: Stage) -> bool:
    """Replace `old`, on the disk when this returns; False where another stage stands there by now.

    The history gets its line, and that of `old` if whoever wrote it did not come so far.
    """
    log = path.with_suffix(HISTORY)
    with locked(path):
        if read(path) != old:
            return False
        if old is not None:
            deployment_log.ensure(log, old.told())
        _write(path, new.model_dump_json(indent=1).encode())
        deployment_log.ensure(log, new.told())
        return True


def note(path: Path, entry: Entry) -> None:
    """Tell the history what is no move of the stage, such as a deployment that failed."""
    with locked(path):
        deployment_log.ensure(path.with_suffix(HISTORY), entry)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Let one at a time change the stage: for milliseconds, so that a rollback never waits for a deployment."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_suffix(".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _write(path: Path, content: bytes) -> None:
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    with partial.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # the new name, too, outlives a power cut
    finally:
        os.close(folder)


def waits_for(standing: Stage, seen: Evidence, at: datetime) -> list[str]:
    """What is missing before a trial goes on, in words; empty: nothing."""
    plan = standing.plan
    assert plan is not None
    shadow = standing.phase is Phase.SHADOW
    seconds = plan.shadow_seconds if shadow else plan.bake_seconds
    lacking = []
    if (left := seconds - (at - standing.since).total_seconds()) > 0:
        lacking.append(f"{left:.0f} s")
    if shadow and seen.compared < plan.shadow_requests:
        lacking.append(f"{plan.shadow_requests - seen.compared} more comparisons")
    if not shadow and seen.candidate.calls < plan.min_requests:
        lacking.append(f"{plan.min_requests - seen.candidate.calls} more requests")
    if not lacking and (doubt := rollout_evidence.doubtful(seen, plan)):
        lacking.append(f"better figures: {doubt}")
    return lacking


def following(standing: Stage, at: datetime) -> Stage:
    """The stage after this step of a trial."""
    plan = standing.plan
    assert plan is not None
    step = 0 if standing.phase is Phase.SHADOW else standing.step + 1
    if step < len(plan.canary):
        more = {"phase": Phase.CANARY, "step": step, "share": plan.canary[step]}
    else:
        more = {"phase": Phase.SWITCH, "step": 0, "share": 0.0}
    return standing.model_copy(update={"since": at, **more})


def name(standing: Stage) -> str:
    """A step in words."""
    words = {
        Phase.SHADOW: f"shadow: {standing.version} answers copies of requests",
        Phase.CANARY: f"canary: {standing.version} answers {100 * standing.share:g}% of the users",
        Phase.SWITCH: f"switch: {standing.version} is to become the default",
        Phase.SERVES: f"none: {standing.version} serves everybody",
        Phase.BACK: f"rollback: {standing.previous} answers, and is to become champion again",
    }
    return words[standing.phase]


def comes_next(standing: Stage, seen: Evidence, at: datetime) -> str:
    """What would happen next, and after what."""
    if standing.phase is Phase.SERVES:
        return "nothing, until the registry names another champion"
    if not standing.tried:
        return "`python -m serving.deploy` ends it"
    after = " and ".join(waits_for(standing, seen, at)) or "its driver looks"
    back = f"; beyond a limit {standing.previous} answers everybody at once"
    return f"{name(following(standing, at))}, after {after}{back}"
