"""Serve a .mar without a registry, as in a container: start TorchServe, load the archive, make it the default.

`serving.deploy` writes archives to out/serving/torchserve/models. They carry the gate's signed statement and are signed, so
this machine needs the trusted public keys (docs/deployment.md), and no code of an archive runs before it is verified.
"""

from __future__ import annotations

import argparse
import sys
import time
from contextlib import suppress
from pathlib import Path

from config.command import UserError, exits_cleanly
from serving import settings as environment
from serving.artifact.archive import ModelArchive, PackageError, read_archive
from serving.deployment.archive_signature import store_verified
from serving.deployment.load_version import Progress, load_version, make_default
from serving.edge import settings as edge
from serving.settings import ServerSettings
from serving.torchserve import server
from serving.torchserve.client import TorchServe


class InstallError(UserError):
    """There is nothing to serve."""


def install(path: Path, settings: ServerSettings, progress: Progress = print) -> ModelArchive:
    """Copy an archive into the model store, load it and make it the default; the former default stays loaded.

    Raises:
        PackageError: it is not a Tidegate archive, or a byte of it was changed.
        SignatureError: no trusted key signed it, or the gate's statement in it is of another artifact.
        DeployError: it does not answer its golden requests as at export; the former default still answers.
        ServerStartError: TorchServe does not start.
    """
    archive = store_verified(path, settings.model_store)
    with server.lock(settings, "deploy"):
        server.start(settings)
        with TorchServe.from_settings(settings) as client:
            former = {live.version for live in client.describe(archive.name).values() if live.default}
            load_version(archive, client, settings, progress)
            make_default(archive, client, settings, progress)
            if archive.version not in former:  # installed again, it keeps the version that is loaded for a rollback
                for version in sorted(client.describe(archive.name).keys() - former - {archive.version}):
                    client.unregister(archive.name, version)
                    progress(f"unloaded {archive.name} {version}")
    return archive


def restore(dataset: str, settings: ServerSettings, progress: Progress = print) -> str:
    """Start TorchServe with what it served last, else with the newest archive of its model store; the version.

    Raises:
        InstallError: there is neither.
        PackageError, SignatureError, DeployError, ServerStartError: as in `install`.
    """
    server.start(settings)
    with TorchServe.from_settings(settings) as client:
        for live in client.describe(dataset).values():
            if live.default and live.ready:
                return live.version
    stored = []
    for path in settings.model_store.glob("*.mar"):
        with suppress(PackageError):  # a copy that was interrupted
            stored.append(read_archive(path))
    own = [archive for archive in stored if archive.name == dataset]
    if not own:
        raise InstallError(f"{settings.model_store} holds no archive of {dataset}; install one")
    newest = max(own, key=lambda archive: [int(part) for part in archive.version.split(".")])
    return install(newest.path, settings, progress).version


@exits_cleanly
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m serving.install", description=__doc__.splitlines()[0])
    parser.add_argument("archive", type=Path, nargs="?", help="a .mar; default: what was served last, else the newest")
    path = parser.parse_args(argv).archive
    settings, begun = environment.load(), time.monotonic()
    if path is None:
        name = edge.load().dataset
        version = restore(name, settings)
    else:
        archive = install(path, settings)
        name, version = archive.name, archive.version
    seconds = time.monotonic() - begun
    print(f"installed {name} version {version} in {seconds:.1f} s at {settings.inference_url}/predictions/{name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
