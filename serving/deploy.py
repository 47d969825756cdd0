"""Make TorchServe serve what the registry says, in steps that are each safe to repeat.

    registry: champion, previous  ->  .mar  ->  loaded beside the old  ->  golden answers live  ->  default

Killed at any moment and run again, it converges; until a new version has answered its golden requests on the
live server, the old one answers everybody. The previous champion stays loaded, so rollback moves one pointer.
A version that is on trial (`python -m serving.rollout`) stays on trial.

The registry's client and torch take seconds to load, and a rollback may not wait for them: they are imported inside
functions.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from config import params
from config.command import UserError, exits_cleanly
from config.params import Rollout
from config.paths import ROOT
from serving import settings as environment
from serving.deployment import deployment_log, rollback, rollout_stage
from serving.deployment.deployment_log import Entry, who
from serving.settings import ServerSettings
from serving.torchserve.client import TorchServe

Say = Callable[[str], None]


class ReasonError(UserError):
    """A reason is missing, or of nothing."""


def deploy(dataset: str, settings: ServerSettings, say: Say = print, plan: Rollout | None = None) -> str:
    """Reconcile; the version that answers who names none, as TorchServe names it.

    Args:
        plan: put a new champion on trial beside the version that serves; None: it serves at once. A trial that is
            under way stays one either way.

    Raises:
        RegistryError: nothing may serve, or the artifact is gone or corrupt; what served before still does.
        DeployError: the new version failed on the server, and was taken away again.
        ServerStartError, JavaError: there is no server to deploy to.
    """
    from serving.deployment.load_version import DeployError
    from serving.deployment.reconcile import Overtaken, Reconcile
    from serving.torchserve import server

    place = rollout_stage.place(dataset, settings)
    with server.lock(settings, "deploy"):
        while True:
            try:
                with tempfile.TemporaryDirectory(prefix="tidegate-") as scratch:
                    return Reconcile(dataset, settings, Path(scratch), say, plan).run()
            except Overtaken:
                say("the stage was moved meanwhile; looking again")
            except DeployError as error:
                at = rollout_stage.now().isoformat()
                rollout_stage.note(place, Entry(at, dataset, "deploy", None, None, str(error), who(), "failed"))
                raise


def roll_back(dataset: str, settings: ServerSettings, why: str, force: bool = False, say: Say = print) -> None:
    """Let the previous champion answer, at once where the server can; `deploy` then ends what this began.

    Raises:
        RollbackError, RegistryError: there is nothing to go back to.
    """
    begun = time.perf_counter()
    place = rollout_stage.place(dataset, settings)
    if rollout_stage.read(place) is None:  # deployed before stages were written down
        from serving.deployment import registry

        registry.rollback(dataset)
        return
    ordered = rollback.order(place, why, who(), force)
    with TorchServe.from_settings(settings) as client:
        fault = rollback.switch(ordered, client)
    if fault is None:
        say(f"{dataset} {ordered.previous} answers since {time.perf_counter() - begun:.3f} s after the order")
    else:
        say(f"{dataset} {ordered.previous} is ordered; a deployment has to bring it up first: {fault}")


@exits_cleanly
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m serving.deploy", description=__doc__.splitlines()[0])
    parser.add_argument("--dataset", metavar="NAME", help="default: params.dataset")
    action = parser.add_mutually_exclusive_group()
    action.add_argument("--rollback", action="store_true", help="make the previous champion serve again")
    action.add_argument("--status", action="store_true", help="what serves, since when, why, and what comes next")
    action.add_argument("--history", action="store_true", help="what was deployed and rolled back, when, why, by whom")
    action.add_argument(
        "--restore", action="store_true", help="undo what was moved by hand: as the last signed move says"
    )
    action.add_argument("--override", metavar="VERSION", help="serve it without the gate's word, in an emergency")
    parser.add_argument("--reason", metavar="TEXT", help="of an override, which needs one, or of a rollback")
    parser.add_argument("--force", action="store_true", help="roll back even to what was rolled back from last")
    arguments = parser.parse_args(argv)
    if arguments.reason is not None and not (arguments.override or arguments.rollback):
        raise ReasonError("--reason is of --override or --rollback, neither of which is asked for")
    if arguments.override and not arguments.reason:
        raise ReasonError("--override wants --reason: why the gate is not asked")
    dataset = arguments.dataset or params.load(ROOT / "params.yaml").dataset
    settings = environment.load()
    if arguments.status:
        from serving.deployment.status import status

        print(status(dataset, settings))
        return 0
    if arguments.history:
        log = rollout_stage.place(dataset, settings).with_suffix(rollout_stage.HISTORY)
        print(deployment_log.render(deployment_log.entries(log, dataset)))
        return 0
    if arguments.rollback:
        roll_back(dataset, settings, arguments.reason or "ordered by hand", arguments.force)
    return _deploy(dataset, settings, arguments)


def _deploy(dataset: str, settings: ServerSettings, arguments: argparse.Namespace) -> int:
    from serving.deployment import registry
    from serving.deployment.load_version import DeployError

    if arguments.restore:
        print(f"the aliases say what the last signed move says: {registry.restore(dataset)}")
    elif arguments.override:
        registry.override(dataset, arguments.override, arguments.reason)
    try:
        version = deploy(dataset, settings)
    except DeployError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{dataset} {version} serves at {settings.inference_url}/predictions/{dataset}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
