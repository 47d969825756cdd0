"""Bring a new champion to the users step by step: shadow, canary by user, then everybody; back at once beyond a limit.

    loaded beside the old  ->  shadow  ->  canary, share by share  ->  TorchServe's default

The edge puts requests to both versions, counts, and rolls back by itself; this only goes on once a step of
`rollout` in params.yaml has had its time and its requests. Killed at any moment and run again it goes on where
the trial stands, or ends the rollback that was ordered. Without an edge in front nothing is counted, and it waits.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable

from config import params
from config.command import exits_cleanly
from config.params import Rollout
from config.paths import ROOT
from serving import settings as environment
from serving.deploy import deploy
from serving.deployment import rollback, rollout_evidence, rollout_stage
from serving.deployment.deployment_log import who
from serving.deployment.load_version import DeployError, Say
from serving.deployment.rollout_stage import Phase, Stage
from serving.settings import ServerSettings

LOOK_SECONDS = 0.5  # between two looks at what the edge counted
TELL_SECONDS = 30.0  # between two lines on what is waited for


def rollout(
    dataset: str,
    settings: ServerSettings,
    plan: Rollout,
    say: Say = print,
    once: bool = False,
    sleep: Callable[[float], None] = time.sleep,
) -> Stage:
    """Go as far as the trial goes; the stage at its end: `serves`, with `undone` where the limits stopped it.

    Args:
        once: do what can be done now and return, for a timer that comes again.

    Raises:
        RegistryError, ServerStartError, JavaError, DeployError: as `serving.deploy`.
    """
    place = rollout_stage.place(dataset, settings)
    told = -TELL_SECONDS
    _reconcile(dataset, settings, plan, say)
    while (standing := _standing(place)).phase is not Phase.SERVES:
        if not standing.tried:
            _reconcile(dataset, settings, plan, say)
            continue
        seen = rollout_evidence.total(place, standing.since.isoformat())
        lacking = rollout_stage.waits_for(standing, seen, rollout_stage.now())
        if not lacking:
            _go_on(place, standing, say)
            continue
        if once or time.monotonic() - told > TELL_SECONDS:
            say(f"{rollout_stage.name(standing)}; goes on after {' and '.join(lacking)}")
            told = time.monotonic()
        if once:
            return standing
        sleep(LOOK_SECONDS)
    return standing


def _standing(place) -> Stage:
    standing = rollout_stage.read(place)
    assert standing is not None, "a deployment writes one"
    return standing


def _reconcile(dataset: str, settings: ServerSettings, plan: Rollout, say: Say) -> None:
    """Deploy; a version on trial that the server cannot hold is rolled back from."""
    try:
        deploy(dataset, settings, say, plan)
    except DeployError as error:
        place = rollout_stage.place(dataset, settings)
        if not _standing(place).tried:
            raise
        rollback.order(place, str(error), who())
        deploy(dataset, settings, say, plan)


def _go_on(place, standing: Stage, say: Say) -> None:
    after = rollout_stage.following(standing, rollout_stage.now())
    if rollout_stage.move(place, standing, after):
        say(rollout_stage.name(after))
        rollout_evidence.forget(place, after.since.isoformat())


@exits_cleanly
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m serving.rollout", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dataset", metavar="NAME", help="default: params.dataset")
    parser.add_argument("--once", action="store_true", help="do what can be done now, and do not wait")
    arguments = parser.parse_args(argv)
    chosen = params.load(ROOT / "params.yaml")
    dataset = arguments.dataset or chosen.dataset
    settings = environment.load()
    say: Say = lambda text: print(text, flush=True)  # noqa: E731
    try:
        ended = rollout(dataset, settings, chosen.rollout, say, arguments.once)
    except DeployError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if ended.phase is not Phase.SERVES:
        return 0
    print(f"{dataset} {ended.version} serves: {ended.why}")
    return 1 if ended.undone else 0


if __name__ == "__main__":
    sys.exit(main())
