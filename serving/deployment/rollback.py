"""The way back, at once: the version before is loaded, so one pointer moves.

The order is written down first, then TorchServe's pointer moves, then the registry's: whoever is killed in between is
followed by a deployment that reads the order and ends what was begun. A pointer moved before the order was
written would be put forward again by the next deployment.
"""

from __future__ import annotations

from pathlib import Path

from config.command import UserError
from serving.deployment import rollout_stage
from serving.deployment.rollout_stage import Phase, Stage
from serving.torchserve.client import ServerError, TorchServe


class RollbackError(UserError):
    """There is nothing to go back to."""


def order(place: Path, why: str, by: str, force: bool = False) -> Stage:
    """Write down that the previous version is to serve; from here on every deployment sees to it.

    Args:
        force: also where the previous version is the one that the last rollback went away from.

    Raises:
        RollbackError: nothing was deployed, there is no previous version, or it was rolled back from.
    """
    while True:
        standing = rollout_stage.read(place)
        if standing is None:
            raise RollbackError(f"{place.stem} was never deployed here, so there is nothing to go back from")
        if standing.phase is Phase.BACK:
            return standing
        if standing.previous is None:
            raise RollbackError(f"no version before {place.stem} {standing.version} is loaded, so none can answer")
        if standing.undone and not force and standing.phase is Phase.SERVES:
            raise RollbackError(
                f"{standing.previous} is what the last rollback went away from ({standing.undone}); "
                "--force makes it serve again"
            )
        ordered = back(standing, why, by)
        if rollout_stage.move(place, standing, ordered):
            return ordered


def back(standing: Stage, why: str, by: str) -> Stage:
    """The stage that follows where `version` is to answer nobody."""
    return standing.model_copy(
        update={"phase": Phase.BACK, "since": rollout_stage.now(), "why": why, "by": by, "share": 0.0, "step": 0}
    )


def switch(ordered: Stage, client: TorchServe) -> str | None:
    """Let the previous version answer who names none; a fault in words where that fails, for a deployment to mend."""
    try:
        client.set_default(ordered.dataset, ordered.previous or "")
    except ServerError as error:
        return str(error)
    return None
