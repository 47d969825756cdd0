"""Make TorchServe serve the registry's champion, and roll back, restore or override it.

A rollback must not wait until the registry's client is loaded: modules that use it are imported inside functions.
"""

from __future__ import annotations

import argparse
import sys
import time

from config import params
from config.command import UserError, exits_cleanly
from config.current_user import current_user
from config.paths import ROOT
from serving import settings as environment
from serving.deployment import rollout_stage
from serving.settings import ServerSettings
from serving.torchserve.client import ServerError, TorchServe


def roll_back(dataset: str, settings: ServerSettings, reason: str, force: bool = False) -> str:
    """Roll back to the version before, at once: it is still loaded, so only TorchServe's default changes.

    The order is written to the stage first, or the next deployment would switch forward again. Returns one line that says
    which version answers. Raises RollbackError if there is no version to roll back to.
    """
    begun = time.perf_counter()
    ordered = rollout_stage.order_rollback(rollout_stage.stage_path(dataset, settings), reason, current_user(), force)
    try:
        with TorchServe.from_settings(settings) as client:
            client.set_default(dataset, ordered.previous or "")
    except ServerError as error:
        return f"ordered the rollback of {dataset} to {ordered.previous}; it has to be loaded first: {error}"
    seconds = time.perf_counter() - begun
    return f"rolled back {dataset} from {ordered.version} to {ordered.previous} in {seconds:.3f} s"


def _roll_back_anywhere(dataset: str, settings: ServerSettings, reason: str, force: bool) -> None:
    if rollout_stage.read_stage(rollout_stage.stage_path(dataset, settings)) is not None:
        print(roll_back(dataset, settings, reason, force), flush=True)
        return
    from serving.deployment import promotion

    version = promotion.roll_back_aliases(dataset, reason).version  # nothing was deployed from here yet
    print(f"rolled back {dataset} to version {version.version} in the registry")


def _deploy(dataset: str, settings: ServerSettings) -> None:
    from serving.deployment import reconcile

    begun = time.monotonic()
    deployment = reconcile.deploy(dataset, settings)
    label = f" ({deployment.label})" if deployment.label else ""
    count = deployment.golden_requests
    print(
        f"deployed {dataset} version {deployment.version}{label} in {time.monotonic() - begun:.1f} s; TorchServe answers "
        f"{count} of {count} golden requests at {settings.inference_url}/predictions/{dataset}"
    )


def _parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m serving.deploy", description=__doc__.splitlines()[0])
    parser.add_argument("--dataset", metavar="NAME", help="default: params.dataset")
    action = parser.add_mutually_exclusive_group()
    flags = {
        "--rollback": "make the previous champion serve again",
        "--status": "print what serves, since when and why, and what comes next",
        "--history": "print each deployment and rollback with its time, reason and author",
        "--restore": "set aliases that were changed by hand back to the last signed change",
    }
    for flag, purpose in flags.items():
        action.add_argument(flag, action="store_true", help=purpose)
    override_help = "in an emergency: serve a version without the gate's approval"
    action.add_argument("--override", metavar="VERSION", help=override_help)
    parser.add_argument("--reason", metavar="TEXT", help="why; required for --override, possible for --rollback")
    force_help = "roll back even to the version that the last rollback removed"
    parser.add_argument("--force", action="store_true", help=force_help)
    arguments = parser.parse_args(argv)
    if arguments.reason is not None and not (arguments.override or arguments.rollback):
        raise UserError("--reason needs --override or --rollback")
    if arguments.override and not arguments.reason:
        raise UserError("--override needs --reason: why the gate does not decide")
    return arguments


@exits_cleanly
def main(argv: list[str] | None = None) -> int:
    arguments = _parse_arguments(argv)
    dataset = arguments.dataset or params.load(ROOT / "params.yaml").dataset
    settings = environment.load()
    if arguments.status or arguments.history:
        from serving.deployment import status

        print((status.deployment_status if arguments.status else status.history_table)(dataset, settings))
        return 0
    if arguments.rollback:
        _roll_back_anywhere(dataset, settings, arguments.reason or "ordered on the command line", arguments.force)
    if arguments.restore or arguments.override:
        from serving.deployment import promotion

        if arguments.restore:
            print(f"restored the aliases to the last signed change: {promotion.restore_aliases(dataset)}")
        else:
            promotion.override(dataset, arguments.override, arguments.reason)
    _deploy(dataset, settings)
    return 0


if __name__ == "__main__":
    sys.exit(main())
