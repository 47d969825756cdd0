"""Make TorchServe serve the registry's champion, and roll back, restore or override it.

A rollback must not wait until the registry's client is loaded: modules that use it are imported inside functions.
"""

from __future__ import annotations

import argparse
import sys
import time
from contextlib import suppress
from datetime import datetime

from config import params
from config.command import UserError, exits_cleanly
from config.current_user import current_user
from config.paths import ROOT
from serving import settings as environment
from serving.deployment import rollout_stage
from serving.deployment.errors import DeployError
from serving.deployment.rollout_stage import Phase, RollbackError, registered_version, served_versions
from serving.deployment.serving_check import check_serves
from serving.settings import ServerSettings
from serving.torchserve.client import ServerError, TorchServe


def roll_back(dataset: str, settings: ServerSettings, reason: str, force: bool = False) -> str:
    """Roll back to the version before, at once: it is still loaded, so only TorchServe's default changes.

    The order is written to the stage first, or the next deployment would switch forward again. If the disk is full, the
    server is switched all the same. Returns one line that says which version answers.

    Raises:
        RollbackError: there is no version to roll back to, or the version before answers without a written order.
        ServerError, DeployError: the version before does not answer yet; the order stays.
    """
    begun, path, problem = time.perf_counter(), rollout_stage.stage_path(dataset, settings), None
    try:
        ordered = rollout_stage.order_rollback(path, reason, current_user(), force)
    except OSError as error:  # a full disk; what may not be rolled back was refused before
        stage = rollout_stage.read_stage(path)
        assert stage is not None
        ordered, problem = stage, error
    with TorchServe.from_settings(settings) as client:
        client.set_default(dataset, ordered.previous or "")
        if problem and ordered.phase in (Phase.CANARY, Phase.SWITCH):  # the edge asks it by its version
            client.unregister(dataset, ordered.version)
        check_serves(dataset, ordered.previous or "", client)
    seconds = time.perf_counter() - begun
    done = f"rolled back {dataset} from {ordered.version} to {ordered.previous} in {seconds:.3f} s"
    if problem:
        raise RollbackError(
            f"{done}, but the order cannot be written ({problem.strerror}): a restart of TorchServe or a deployment brings "
            f"{ordered.version} back; free space, then repeat this command"
        )
    return done


def _roll_back_and_record(dataset: str, settings: ServerSettings, reason: str, force: bool) -> None:
    """Roll back on this host, then in the registry; raise UserError unless both are done and the version before serves."""
    path = rollout_stage.stage_path(dataset, settings)
    stage = rollout_stage.read_stage(path)
    if stage is None:
        _roll_back_in_registry(dataset, reason, force)
        _deploy(dataset, settings)
        return
    if stage.phase is Phase.SERVES and stage.rollback_reason and not force:  # repeated, or completed by the supervisor
        with TorchServe.from_settings(settings) as client:
            check_serves(dataset, stage.version, client)
        print(
            f"nothing changed: {dataset} {stage.version} serves since the last rollback removed {stage.previous} "
            f"({stage.rollback_reason}); --force makes {stage.previous} serve again"
        )
        return
    try:
        done = roll_back(dataset, settings, reason, force)
    except (ServerError, DeployError) as error:
        done = f"ordered the rollback of {dataset}; the version before has to be loaded first: {error}"
    print(done, flush=True)
    ordered = rollout_stage.read_stage(path)
    target = served_versions(ordered or stage)[0]
    try:
        version = _complete_rollback(dataset, settings, target)
    except UserError as error:
        raise UserError(
            f"the rollback stays ordered on this host, but it is not complete: {error}; repeat "
            "`python -m serving.deploy --settle`"
        ) from None
    _check_version(dataset, version, registered_version(target))


def _complete_rollback(dataset: str, settings: ServerSettings, target: str) -> str:
    """Record a rollback, and give the version that it goes back to all workers; the version that serves.

    If another one is champion all the same, nothing is deployed: a rollback never brings a version that did not serve.
    """
    from serving.deployment import reconcile, registry

    with suppress(ServerError, DeployError):  # the version before has to be loaded first
        reconcile.settle_rollback(dataset, settings)
        if registry.version_number(dataset, registry.CHAMPION) != registered_version(target):
            with TorchServe.from_settings(settings) as client:
                check_serves(dataset, target, client)
            return target
    return _deploy(dataset, settings)


def _check_version(dataset: str, version: str, wanted: str) -> None:
    """Raise UserError if another version serves than this command wanted."""
    if registered_version(version) != wanted:
        raise UserError(f"{dataset} {version} serves, not {wanted}: somebody else decided meanwhile; see `make status`")


def _roll_back_in_registry(dataset: str, reason: str, force: bool) -> None:
    """Make the previous version champion where nothing was deployed from here yet."""
    from serving.deployment import decisions, promotion
    from serving.deployment.registry import PREVIOUS

    previous = promotion.serving_target(dataset, PREVIOUS).version
    if not force and (bar := decisions.read_log(dataset).bar(previous.artifact)):
        raise RollbackError(f"the {bar.rollback} removed {previous}; --force makes it serve again")
    promotion.roll_back_aliases(dataset, reason)


def _override(dataset: str, settings: ServerSettings, version: str, reason: str) -> None:
    from serving.deployment import decisions, promotion

    promotion.override(dataset, version, reason)
    log = decisions.read_log(dataset)
    if last := log.last():
        path, decided_at = rollout_stage.stage_path(dataset, settings), datetime.fromisoformat(last.decided_at)
        rollout_stage.accept_decision(path, log.last_serial, log.last_hash, decided_at)
    _check_version(dataset, _deploy(dataset, settings), version)


def _settle(dataset: str, settings: ServerSettings) -> None:
    from serving.deployment import reconcile

    version = reconcile.settle_rollback(dataset, settings)
    print(f"completed the rollback: {dataset} {version} serves" if version else "no rollback is pending")


def _deploy(dataset: str, settings: ServerSettings, accept_policy: bool = False) -> str:
    """Deploy, say what serves, and return its version."""
    from serving.deployment import reconcile

    begun = time.monotonic()
    deployment = reconcile.deploy(dataset, settings, accept_policy=accept_policy)
    label = f" ({deployment.label})" if deployment.label else ""
    count = deployment.golden_requests
    print(
        f"deployed {dataset} version {deployment.version}{label} in {time.monotonic() - begun:.1f} s; TorchServe answers "
        f"{count} of {count} golden requests at {settings.inference_url}/predictions/{dataset}"
    )
    return deployment.version


def _parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m serving.deploy", description=__doc__.splitlines()[0])
    parser.add_argument("--dataset", metavar="NAME", help="default: params.dataset")
    action = parser.add_mutually_exclusive_group()
    flags = {
        "--rollback": "make the previous champion serve again",
        "--status": "print what serves, since when and why, and what comes next",
        "--history": "print each deployment and rollback with its time, reason and author",
        "--settle": "complete a rollback that was ordered here, and switch to no other version",
        "--restore": "set aliases that were changed by hand back to the last signed decision",
    }
    for flag, purpose in flags.items():
        action.add_argument(flag, action="store_true", help=purpose)
    override_help = "in an emergency: serve a version without the gate's approval"
    action.add_argument("--override", metavar="VERSION", help=override_help)
    parser.add_argument("--reason", metavar="TEXT", help="why; required for --override, possible for --rollback")
    force_help = "roll back even to the version that the last rollback removed"
    parser.add_argument("--force", action="store_true", help=force_help)
    policy_help = "also serve a champion that passed the gate under another policy than the committed one"
    parser.add_argument("--accept-policy", action="store_true", help=policy_help)
    arguments = parser.parse_args(argv)
    if arguments.reason is not None and not (arguments.override or arguments.rollback):
        raise UserError("--reason needs --override or --rollback")
    if arguments.accept_policy and (arguments.override or arguments.rollback or arguments.settle):
        raise UserError("--accept-policy is for a champion that the gate promoted")
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
        _roll_back_and_record(dataset, settings, arguments.reason or "ordered on the command line", arguments.force)
    elif arguments.settle:
        _settle(dataset, settings)
    elif arguments.override:
        _override(dataset, settings, arguments.override, arguments.reason)
    else:
        if arguments.restore:
            from serving.deployment import promotion

            print(f"restored the aliases to the last signed decision: {promotion.restore_aliases(dataset)}")
        _deploy(dataset, settings, arguments.accept_policy)
    return 0


if __name__ == "__main__":
    sys.exit(main())
