"""Make TorchServe serve what the registry says, in steps that are each safe to repeat.

    registry: champion, previous  ->  .mar  ->  loaded beside the old  ->  golden answers live  ->  default

Killed at any moment and run again, it converges; until a new version has answered its golden requests on the
live server, the old one answers everybody. The previous champion stays loaded, so rollback moves one pointer.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import params
from command import exits_cleanly
from params import ROOT
from serving import builds, moves, registry, server
from serving import settings as environment
from serving.bring_up import DeployError, Say, bring_up, make_default
from serving.client import ServerError, TorchServe
from serving.overview import overview
from serving.package import Build
from serving.registry import PREVIOUS, RegistryError, Version
from serving.settings import Settings


def deploy(dataset: str, settings: Settings, say: Say = print) -> str:
    """Reconcile; the version that serves, as TorchServe names it.

    Raises:
        RegistryError: nothing may serve, or the artifact is gone or corrupt; what served before still does.
        DeployError: the new version failed on the server, and was taken away again.
        ServerStartError, JavaError: there is no server to deploy to.
    """
    with server.lock(settings, "deploy"), tempfile.TemporaryDirectory(prefix="tidegate-") as scratch:
        if under_way := moves.finish(dataset):
            say(f"completed the {under_way}, which was cut short")
        champion = registry.serving_target(dataset).version
        if loud := registry.standing_override(dataset):
            say(f"OVERRIDE: {loud['line']}")
        previous = _previous(champion, say)
        if server.start(settings):
            say("started TorchServe")
        with TorchServe.of(settings) as client:
            build = builds.build(champion, client, settings, Path(scratch))
            _load(build, client, settings, say)
            make_default(build, client, settings, say)
            kept = {build.version}
            if previous is not None:
                kept |= _keep_loaded(previous, client, settings, Path(scratch), say)
            _remove_others(dataset, kept, client, settings, say)
        return build.version


def status(dataset: str, settings: Settings) -> str:
    """What the registry wants and what the server does, in a few lines."""
    lines = overview(dataset)
    if server.find(settings) is None:
        return "\n".join([*lines, "server    not running"])
    with TorchServe.of(settings) as client:
        live = client.describe(dataset)
    for about in live.values():
        role = "default" if about.default else "loaded"
        lines.append(f"server    {role:<11} {about.version} ({about.ready} of {about.workers} workers ready)")
    return "\n".join(lines if live else [*lines, f"server    runs, without {dataset}"])


def _previous(champion: Version, say: Say) -> Version | None:
    try:
        previous = registry.serving_target(champion.dataset, PREVIOUS).version
    except RegistryError as error:
        if registry.aliased(champion.dataset, PREVIOUS) is not None:
            say(f"not kept for rollback: {error}")
        return None
    return previous if previous.version != champion.version else None


def _load(build: Build, client: TorchServe, settings: Settings, say: Say) -> None:
    try:
        bring_up(build, client, settings, say)
    except DeployError:
        build.archive.unlink(missing_ok=True)  # the registry holds what it was made of
        raise


def _keep_loaded(version: Version, client: TorchServe, settings: Settings, scratch: Path, say: Say) -> set[str]:
    """Load the previous champion with one worker. That it cannot be is a warning: the champion serves."""
    try:
        build = builds.build(version, client, settings, scratch)
        _load(build, client, settings, say)
        live = client.describe(build.name)[build.version]
        if live.workers != 1:
            client.scale(build.name, build.version, 1)
        return {build.version}
    except (DeployError, RegistryError, ServerError) as error:
        say(f"not kept for rollback: {error}")
        return set()


def _remove_others(dataset: str, kept: set[str], client: TorchServe, settings: Settings, say: Say) -> None:
    for name in sorted(client.describe(dataset).keys() - kept):
        client.unregister(dataset, name)
        say(f"unloaded {dataset} {name}")
    for name, archive in builds.archives(dataset, settings).items():
        if name not in kept:
            archive.unlink(missing_ok=True)


@exits_cleanly
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m serving.deploy", description=__doc__.splitlines()[0])
    parser.add_argument("--dataset", metavar="NAME", help="default: params.dataset")
    action = parser.add_mutually_exclusive_group()
    action.add_argument("--rollback", action="store_true", help="make the previous champion serve again")
    action.add_argument("--status", action="store_true", help="what should serve, and what does")
    action.add_argument(
        "--restore", action="store_true", help="undo what was moved by hand: as the last signed move says"
    )
    action.add_argument("--override", metavar="VERSION", help="serve it without the gate's word, in an emergency")
    parser.add_argument("--reason", metavar="TEXT", help="of the override, which is shown until a promotion ends it")
    arguments = parser.parse_args(argv)
    if (arguments.override is None) != (arguments.reason is None):
        raise RegistryError("--override and --reason go together: which version, and why the gate is not asked")
    dataset = arguments.dataset or params.load(ROOT / "params.yaml").dataset
    settings = environment.load()
    if arguments.status:
        print(status(dataset, settings))
        return 0
    try:
        if arguments.rollback:
            registry.rollback(dataset)
        elif arguments.restore:
            print(f"the aliases say what the last signed move says: {registry.restore(dataset)}")
        elif arguments.override:
            registry.override(dataset, arguments.override, arguments.reason)
        version = deploy(dataset, settings)
    except DeployError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{dataset} {version} serves at {settings.inference_url}/predictions/{dataset}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
