"""Make TorchServe serve the registry's champion, and roll back, restore or override it.

The registry's client takes seconds to load, and a rollback must not wait for it: modules that use it are imported inside
functions.
"""

from __future__ import annotations

import argparse
import sys
import time

from config import params
from config.command import UserError, exits_cleanly
from config.paths import ROOT
from serving import settings as environment
from serving.deployment import deployment_log, rollback, rollout_stage
from serving.settings import ServerSettings


class ReasonError(UserError):
    """--reason is missing, or has nothing to explain."""


@exits_cleanly
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m serving.deploy", description=__doc__.splitlines()[0])
    parser.add_argument("--dataset", metavar="NAME", help="default: params.dataset")
    action = parser.add_mutually_exclusive_group()
    action.add_argument("--rollback", action="store_true", help="make the previous champion serve again")
    action.add_argument(
        "--status", action="store_true", help="print what serves, since when and why, and what comes next"
    )
    action.add_argument(
        "--history", action="store_true", help="print what was deployed and rolled back, when, why, by whom"
    )
    action.add_argument(
        "--restore", action="store_true", help="set aliases that were changed by hand back to the last signed change"
    )
    action.add_argument(
        "--override", metavar="VERSION", help="in an emergency: serve a version without the gate's approval"
    )
    parser.add_argument("--reason", metavar="TEXT", help="why; required for --override, possible for --rollback")
    parser.add_argument(
        "--force", action="store_true", help="roll back even to the version that the last rollback removed"
    )
    arguments = parser.parse_args(argv)
    if arguments.reason is not None and not (arguments.override or arguments.rollback):
        raise ReasonError("--reason needs --override or --rollback")
    if arguments.override and not arguments.reason:
        raise ReasonError("--override needs --reason: why the gate is not asked")
    dataset = arguments.dataset or params.load(ROOT / "params.yaml").dataset
    settings = environment.load()
    if arguments.status:
        from serving.deployment.status import deployment_status

        print(deployment_status(dataset, settings))
        return 0
    if arguments.history:
        log = rollout_stage.log_path(rollout_stage.stage_path(dataset, settings))
        print(deployment_log.render_table(deployment_log.read_events(log, dataset)))
        return 0
    if arguments.rollback:
        _roll_back(dataset, settings, arguments.reason or "ordered on the command line", arguments.force)
    return _deploy(dataset, settings, arguments)


def _roll_back(dataset: str, settings: ServerSettings, reason: str, force: bool) -> None:
    if rollout_stage.read_stage(rollout_stage.stage_path(dataset, settings)) is not None:
        print(rollback.roll_back(dataset, settings, reason, force), flush=True)
        return
    from serving.deployment import promotion

    version = promotion.roll_back_aliases(dataset, reason).version  # nothing was deployed from here yet
    print(f"rolled back {dataset} to version {version.version} in the registry")


def _deploy(dataset: str, settings: ServerSettings, arguments: argparse.Namespace) -> int:
    from serving.deployment import emergency_override, promotion, reconcile
    from serving.deployment.load_version import DeployError

    begun = time.monotonic()
    if arguments.restore:
        print(f"restored the aliases to the last signed change: {promotion.restore_aliases(dataset)}")
    elif arguments.override:
        emergency_override.override(dataset, arguments.override, arguments.reason)
    try:
        deployment = reconcile.deploy(dataset, settings)
    except DeployError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    label = f" ({deployment.label})" if deployment.label else ""
    count = deployment.golden_requests
    print(
        f"deployed {dataset} version {deployment.version}{label} in {time.monotonic() - begun:.1f} s; TorchServe answers "
        f"{count} of {count} golden requests at {settings.inference_url}/predictions/{dataset}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
