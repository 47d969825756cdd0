"""Roll out a new champion step by step: shadow, canary by user, then all users; roll back at once beyond a limit.

The edge sends requests to both versions, counts, and rolls back by itself. This command only takes the next step once
the present one has had its time and its requests, as `rollout` in params.yaml states. If it is killed and run again, it
goes on where the rollout stands, or completes a rollback. Without an edge nothing is counted, and it waits.
"""

from __future__ import annotations

import argparse
import sys
import time
from functools import partial
from pathlib import Path

from config import params
from config.command import exits_cleanly
from config.current_user import current_user
from config.params import Rollout
from config.paths import ROOT
from serving import settings as environment
from serving.deployment import promotion, reconcile, rollout_evidence, rollout_stage
from serving.deployment.errors import DeployError
from serving.deployment.load_version import Progress
from serving.deployment.registry import RegistryError, is_unavailable
from serving.deployment.rollout_stage import Phase, RolloutStage
from serving.deployment.serving_check import check_serves
from serving.settings import ServerSettings
from serving.torchserve.client import TorchServe

POLL_SECONDS = 0.5
PROGRESS_SECONDS = 30.0  # between two lines on what the rollout waits for


def rollout(
    dataset: str, settings: ServerSettings, plan: Rollout, progress: Progress = print, accept_policy: bool = False
) -> RolloutStage:
    """Take every step of the rollout; the stage at its end: `serves`, with `rollback_reason` if a limit stopped it.

    The decision log records each step before it is taken. While the registry is away, the present step goes on.

    Raises:
        RegistryError, ServerStartError, DeployError: as `serving.deployment.reconcile.deploy`.
    """
    path = rollout_stage.stage_path(dataset, settings)
    reported = -PROGRESS_SECONDS
    _reconcile(dataset, settings, plan, progress, accept_policy)
    while (stage := _read_stage(path)).phase is not Phase.SERVES:
        if not stage.on_trial:
            _reconcile(dataset, settings, plan, progress, accept_policy)
            continue
        evidence = rollout_evidence.total_evidence(path, stage.since.isoformat())
        missing = rollout_stage.missing_for_next_step(stage, evidence, rollout_stage.utc_now())
        if not missing:
            try:
                following = rollout_stage.next_stage(stage, rollout_stage.utc_now())
                recorded = promotion.record_rollout_step(dataset, following)
            except RegistryError as error:
                if not is_unavailable(error):
                    raise
                missing.append(f"the registry: {error}")  # no step without its record
            else:
                if recorded is None:
                    _reconcile(dataset, settings, plan, progress, accept_policy)  # another version is champion by now
                elif rollout_stage.replace_stage(path, stage, recorded):
                    progress(rollout_stage.describe_stage(recorded))
                    rollout_evidence.remove_other_steps(path, recorded.since.isoformat())
                continue
        if time.monotonic() - reported > PROGRESS_SECONDS:
            progress(f"{rollout_stage.describe_stage(stage)}; the next step waits for {' and '.join(missing)}")
            reported = time.monotonic()
        time.sleep(POLL_SECONDS)
    with TorchServe.from_settings(settings) as client:  # another process may have ended it
        check_serves(dataset, stage.version, client)
    return stage


def _read_stage(path: Path) -> RolloutStage:
    stage = rollout_stage.read_stage(path)
    assert stage is not None, "a deployment writes one"
    return stage


def _reconcile(dataset: str, settings: ServerSettings, plan: Rollout, progress: Progress, accept_policy: bool) -> None:
    """Deploy. If the server cannot hold the version on trial, roll back from it."""
    try:
        reconcile.deploy(dataset, settings, progress, plan, accept_policy)
    except DeployError as error:
        path = rollout_stage.stage_path(dataset, settings)
        if not _read_stage(path).on_trial:
            raise
        rollout_stage.order_rollback(path, str(error), current_user())
        reconcile.deploy(dataset, settings, progress, plan, accept_policy)


@exits_cleanly
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m serving.rollout", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dataset", metavar="NAME", help="default: params.dataset")
    policy_help = "also roll out a champion that passed the gate under another policy than the committed one"
    parser.add_argument("--accept-policy", action="store_true", help=policy_help)
    arguments = parser.parse_args(argv)
    settings = params.load(ROOT / "params.yaml")
    dataset = arguments.dataset or settings.dataset
    stage = rollout(dataset, environment.load(), settings.rollout, partial(print, flush=True), arguments.accept_policy)
    if stage.rollback_reason:
        print(f"rolled back: {dataset} version {stage.version} serves all users ({stage.rollback_reason})")
        return 1
    print(f"rolled out {dataset}: version {stage.version} serves all users")
    return 0


if __name__ == "__main__":
    sys.exit(main())
