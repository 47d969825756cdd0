"""Serve a .mar without a registry, as in a container: start TorchServe, load the archive, make it the default.

`serving.deploy` writes archives to out/serving/torchserve/models. They carry the gate's signed statement and are signed, so
this machine needs the trusted public keys (docs/deployment.md), and no code of an archive runs before it is verified.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from config.command import exits_cleanly
from config.current_user import current_user
from serving import settings as environment
from serving.artifact.archive import ModelArchive
from serving.deployment import rollout_stage
from serving.deployment.archive_signature import store_verified, verified_archives
from serving.deployment.load_version import Progress, load_version, make_default
from serving.deployment.restore import restore, stored_archives
from serving.deployment.rollout_stage import Phase, RolloutStage
from serving.edge import settings as edge
from serving.settings import ServerSettings
from serving.torchserve import server
from serving.torchserve.client import TorchServe


def install(path: Path, settings: ServerSettings, progress: Progress = print) -> ModelArchive:
    """Copy an archive into the model store, load it and make it the default; the former default stays loaded.

    The rollout stage then says that it serves.

    Raises:
        PackageError: it is not a Tidegate archive, or a byte of it was changed.
        SignatureError: no trusted key signed it, or the gate's statement in it is of another artifact.
        DeployError: it does not answer its golden requests as at export; the former default still answers.
        ServerStartError: TorchServe does not start.
    """
    archive = store_verified(path, settings.model_store)
    with server.lock(settings, "deploy"):
        server.start(settings, lambda: verified_archives(settings, progress))
        with TorchServe.from_settings(settings) as client:
            former = {live.version for live in client.describe(archive.name).values() if live.default}
            load_version(archive, client, settings, progress)
            if former and archive.version not in former:
                _record(archive, Phase.SWITCH, next(iter(former)), settings)
            make_default(archive, client, settings, progress)
            if archive.version not in former:  # installed again, it keeps the version that is loaded for a rollback
                for version in sorted(client.describe(archive.name).keys() - former - {archive.version}):
                    client.unregister(archive.name, version)
                    progress(f"unloaded {archive.name} {version}")
            kept = client.describe(archive.name).keys() - {archive.version}
        _record(archive, Phase.SERVES, next(iter(kept), None), settings)
        for version, stored in stored_archives(archive.name, settings).items():
            if version not in (archive.version, *kept):  # or the volume would grow with each installation
                stored.path.unlink(missing_ok=True)
    return archive


def _record(archive: ModelArchive, phase: Phase, previous: str | None, settings: ServerSettings) -> None:
    """Write to the rollout stage that the archive is to serve, or serves, so that a repair restores it."""
    path = rollout_stage.stage_path(archive.name, settings)
    while True:
        stage = rollout_stage.read_stage(path)
        serves = {"phase": phase, "version": archive.version, "previous": previous}
        if stage is not None and serves == stage.model_dump(include=set(serves)):
            return
        seen = {"serial": stage.serial, "entry": stage.entry} if stage else {}  # the newest decision of the registry
        new = RolloutStage(
            dataset=archive.name,
            since=rollout_stage.utc_now(),
            reason=f"installed {archive.path.name}",
            by=current_user(),
            **serves,
            **seen,
        )
        if rollout_stage.replace_stage(path, stage, new):
            return


@exits_cleanly
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m serving.install", description=__doc__.splitlines()[0])
    parser.add_argument("archive", type=Path, nargs="?", help="a .mar; default: what was served last")
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
