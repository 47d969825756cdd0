"""Serve an archive where there is no registry, as in a container: start TorchServe, load the archive, answer from it.

The gate has spoken where the archive was made: `serving.deploy` writes them to out/serving/torchserve/models.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

from config.command import UserError, exits_cleanly
from serving import settings as environment
from serving.deployment.load_version import DeployError, Say, bring_up, make_default
from serving.edge import settings as edge
from serving.package import Build, PackageError, read_build
from serving.settings import ServerSettings
from serving.torchserve import server
from serving.torchserve.client import TorchServe


class InstallError(UserError):
    """There is nothing to serve."""


def install(archive: Path, settings: ServerSettings, say: Say = print) -> Build:
    """Copy an archive into the model store, load it and make it the default; who was that stays loaded.

    Raises:
        PackageError: it is no archive of ours.
        DeployError: it does not answer its golden requests as at export; who answered before still does.
        ServerStartError, JavaError: TorchServe does not start.
    """
    build = read_build(archive)
    kept = settings.model_store / f"{build.name}-{build.version}.mar"
    settings.model_store.mkdir(parents=True, exist_ok=True)
    if archive.resolve() != kept.resolve():
        partial = kept.with_name(f".{kept.name}")
        shutil.copyfile(archive, partial)
        partial.replace(kept)
    with server.lock(settings, "deploy"):
        server.start(settings)
        with TorchServe.from_settings(settings) as client:
            _switch(Build(build.name, build.version, kept, build.golden), client, settings, say)
    return build


def restore(dataset: str, settings: ServerSettings, say: Say = print) -> str:
    """Start TorchServe with what it served last, else with the newest archive of its model store; the version.

    Raises:
        InstallError: neither is there.
        PackageError, DeployError, ServerStartError, JavaError: as in `install`.
    """
    server.start(settings)
    with TorchServe.from_settings(settings) as client:
        for live in client.describe(dataset).values():
            if live.default and live.ready:
                return live.version
    newest = _newest(dataset, settings)
    if newest is None:
        raise InstallError(f"{settings.model_store} holds no archive of {dataset}; install one")
    return install(newest, settings, say).version


def _switch(build: Build, client: TorchServe, settings: ServerSettings, say: Say) -> None:
    before = {live.version for live in client.describe(build.name).values() if live.default}
    bring_up(build, client, settings, say)
    make_default(build, client, settings, say)
    if build.version in before:  # installed again: what stays for going back is not to go
        return
    for version in sorted(client.describe(build.name).keys() - before - {build.version}):
        client.unregister(build.name, version)
        say(f"unloaded {build.name} {version}")


def _newest(dataset: str, settings: ServerSettings) -> Path | None:
    found = []
    for archive in settings.model_store.glob("*.mar"):
        try:
            build = read_build(archive)
        except PackageError:  # not of ours, or cut short while it was copied
            continue
        if build.name == dataset:
            found.append((tuple(int(part) for part in build.version.split(".")), archive))
    return max(found)[1] if found else None


@exits_cleanly
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m serving.install", description=__doc__.splitlines()[0])
    parser.add_argument("archive", type=Path, nargs="?", help="a .mar; default: what was served last, else the newest")
    archive = parser.parse_args(argv).archive
    settings = environment.load()
    try:
        if archive is None:
            name = edge.load().dataset
            version = restore(name, settings)
        else:
            build = install(archive, settings)
            name, version = build.name, build.version
    except DeployError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{name} {version} serves at {settings.inference_url}/predictions/{name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
