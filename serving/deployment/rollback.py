"""Roll back to the version before, at once: it is still loaded, so only TorchServe's default changes.

The order is written to the stage first, then TorchServe's default changes, then the registry's aliases. If a process is
killed in between, the next deployment reads the order and completes the rollback. If the default changed before the order
was written, the next deployment would switch it forward again.
"""

from __future__ import annotations

import time
from pathlib import Path

from config.command import UserError
from serving.deployment import rollout_stage
from serving.deployment.deployment_log import current_user
from serving.deployment.rollout_stage import Phase, RolloutStage
from serving.settings import ServerSettings
from serving.torchserve.client import ServerError, TorchServe


class RollbackError(UserError):
    """There is no version to roll back to."""


def roll_back(dataset: str, settings: ServerSettings, reason: str, force: bool = False) -> str:
    """Let the previous version answer, at once if the server can; `reconcile.deploy` then completes the rollback.

    Returns:
        One line that says which version answers.

    Raises:
        RollbackError: there is no version to roll back to.
    """
    begun = time.perf_counter()
    ordered = order_rollback(rollout_stage.stage_path(dataset, settings), reason, current_user(), force)
    try:
        with TorchServe.from_settings(settings) as client:
            client.set_default(dataset, ordered.previous or "")
    except ServerError as error:
        return f"ordered the rollback of {dataset} to {ordered.previous}; it has to be loaded first: {error}"
    seconds = time.perf_counter() - begun
    return f"rolled back {dataset} from {ordered.version} to {ordered.previous} in {seconds:.3f} s"


def order_rollback(path: Path, reason: str, by: str, force: bool = False) -> RolloutStage:
    """Write to the stage that the previous version is to serve; every deployment then makes it so.

    Args:
        path: the stage's file.
        force: also if the previous version is the one that the last rollback removed.

    Raises:
        RollbackError: nothing was deployed, there is no previous version, or the last rollback removed it.
    """
    while True:
        stage = rollout_stage.read_stage(path)
        if stage is None:
            raise RollbackError(f"{path.stem} was never deployed here, so there is nothing to roll back")
        if stage.phase is Phase.ROLLBACK:
            return stage
        if stage.previous is None:
            raise RollbackError(f"no version before {path.stem} {stage.version} is loaded, so none can answer")
        if stage.rollback_reason and not force and stage.phase is Phase.SERVES:
            raise RollbackError(
                f"the last rollback removed {stage.previous} ({stage.rollback_reason}); --force makes it serve again"
            )
        ordered = rollback_stage(stage, reason, by)
        if rollout_stage.replace_stage(path, stage, ordered):
            return ordered


def rollback_stage(stage: RolloutStage, reason: str, by: str) -> RolloutStage:
    """The stage that orders a rollback from `stage.version` to `stage.previous`."""
    return stage.model_copy(
        update={
            "phase": Phase.ROLLBACK,
            "since": rollout_stage.utc_now(),
            "reason": reason,
            "by": by,
            "share": 0.0,
            "step": 0,
        }
    )
