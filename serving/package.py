"""STAGE  artifact folder and worker code -> one .mar, the archive that TorchServe loads.

A .mar is a zip with MAR-INF/MANIFEST.json. The same artifact and code give the same bytes.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
import shutil
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from config import params
from config.command import UserError, exits_cleanly
from config.paths import ARCHIVES, ARTIFACTS, ROOT
from serving.artifact.worker_code import worker_modules
from training.models.artifact import MANIFEST, ArtifactError, digest_of, verify

ARTIFACT = "artifact"  # the artifact's folder inside the archive, as serving.worker.handler reads it
ENTRY_MODULE = "tidegate_handler"
INNER_MANIFEST = "MAR-INF/MANIFEST.json"
UNREGISTERED = "0.0"  # version of an archive that no registry knows
EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest time that a zip can hold

ENTRY_SOURCE = '''\
"""Entry point of a Tidegate archive."""

import sys
from pathlib import Path

# First, so that no other `data` or `serving` on this machine can stand in for what was packaged.
sys.path.insert(0, str(Path(__file__).resolve().parent))

from serving.worker.handler import Handler  # noqa: E402


class TidegateHandler(Handler):
    """TorchServe wants one class, defined here."""
'''


class PackageError(UserError):
    """An archive cannot be built; the text says from what and why."""


@dataclass(frozen=True)
class Identity:
    """What an archive says of itself, without being unpacked."""

    name: str
    version: str
    artifact: str  # digest of the artifact's manifest
    content: str  # one hash over all entries but the manifest: code and artifact, whatever the version


@dataclass(frozen=True)
class Build:
    """A version of a model as an archive in the model store."""

    name: str  # of the model: the data set
    version: str  # as TorchServe names it
    archive: Path
    golden: list[dict]


def build(artifact: Path, target: Path, name: str, version: str = UNREGISTERED, root: Path = ROOT) -> Identity:
    """Write the archive, whole or not at all.

    Args:
        artifact: a verified artifact folder.
        target: the .mar to write; an older one is replaced.
        name, version: what TorchServe will call the model.
        root: where the worker code lies.

    Raises:
        PackageError: the artifact is corrupt.
        WorkerCodeError: the code imports what the worker must not load.
    """
    manifest = _verified(artifact)
    entries = sorted(_entries(artifact, manifest, root))
    identity = Identity(name, version, digest_of(manifest), _content_hash(entries))
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        with zipfile.ZipFile(partial, "w", zipfile.ZIP_STORED) as archive:  # weights do not compress
            _write(archive, INNER_MANIFEST, _inner_manifest(identity))
            for entry, source in entries:
                _write(archive, entry, source)
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)
    return identity


def content_of(artifact: Path, root: Path = ROOT) -> str:
    """The `content` that an archive of this artifact would state, without building it.

    Raises:
        PackageError, WorkerCodeError: as in `build`.
    """
    return _content_hash(sorted(_entries(artifact, _verified(artifact), root)))


def read_identity(archive: Path) -> Identity:
    """What an archive states of itself.

    Raises:
        PackageError: it is no archive of ours.
    """
    with _of_ours(archive):
        inner = _told(archive, INNER_MANIFEST)
        ours = inner["tidegate"]
        return Identity(inner["model"]["modelName"], inner["model"]["modelVersion"], ours["artifact"], ours["content"])


def read_build(archive: Path) -> Build:
    """An archive of the model store, with the golden requests that it carries.

    Raises:
        PackageError: it is no archive of ours.
    """
    identity = read_identity(archive)
    try:
        with zipfile.ZipFile(archive) as mar:
            lines = mar.read(f"{ARTIFACT}/golden.jsonl").decode().splitlines()
    except KeyError:
        raise PackageError(f"{archive} carries no golden requests") from None
    return Build(identity.name, identity.version, archive, [json.loads(line) for line in lines])


@contextmanager
def _of_ours(archive: Path) -> Iterator[None]:
    """Take what cannot be read of an archive for a sign that it is none of ours."""
    try:
        yield
    except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
        raise PackageError(f"{archive} is not a Tidegate archive: {error}") from None


def _told(archive: Path, entry: str) -> dict:
    with zipfile.ZipFile(archive) as mar:
        return json.loads(mar.read(entry))


def _verified(artifact: Path) -> dict:
    try:
        return verify(artifact)
    except ArtifactError as error:
        raise PackageError(str(error)) from None


def _entries(artifact: Path, manifest: dict, root: Path) -> Iterator[tuple[str, Path | bytes]]:
    """Name in the archive -> its source. Only files that the manifest names travel."""
    yield f"{ENTRY_MODULE}.py", ENTRY_SOURCE.encode()
    for path in worker_modules(root).values():
        yield path.relative_to(root).as_posix(), path
    for file in (MANIFEST, *manifest["files"]):
        yield f"{ARTIFACT}/{file}", artifact / file


def _inner_manifest(identity: Identity) -> bytes:
    model = {"modelName": identity.name, "modelVersion": identity.version, "handler": f"{ENTRY_MODULE}.py"}
    stated = {
        "createdOn": "01/01/1980 00:00:00",  # TorchServe wants one; a real one would make every build differ
        "archiverVersion": "0.12.0",
        "runtime": "python",
        "model": model,
        "tidegate": {"artifact": identity.artifact, "content": identity.content},
    }
    return json.dumps(stated, indent=1, sort_keys=True).encode()


def _content_hash(entries: list[tuple[str, Path | bytes]]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for entry, source in entries:
        digest.update(f"{entry}\0".encode())
        with source.open("rb") if isinstance(source, Path) else io.BytesIO(source) as stream:
            digest.update(hashlib.file_digest(stream, "blake2b").digest())
    return digest.hexdigest()


def _write(archive: zipfile.ZipFile, entry: str, source: Path | bytes) -> None:
    about = zipfile.ZipInfo(entry, EPOCH)
    about.external_attr = 0o644 << 16
    about.create_system = 3
    if isinstance(source, bytes):
        archive.writestr(about, source)
        return
    about.file_size = source.stat().st_size
    with source.open("rb") as stream, archive.open(about, "w") as sink:
        shutil.copyfileobj(stream, sink, 1 << 20)


@exits_cleanly
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m serving.package", description=__doc__)
    parser.add_argument(
        "--model", nargs="+", action="extend", required=True, metavar="LABEL", help="a key of params.yaml: train.models"
    )
    parser.add_argument("--params", type=Path, default=ROOT / "params.yaml", help="default: %(default)s")
    arguments = parser.parse_args(argv)
    settings = params.load(arguments.params)
    for label in arguments.model:
        if label not in settings.train.models:
            known = ", ".join(settings.train.models)
            raise PackageError(f"--model is {label!r}; params.train.models holds {known}")
        target = ROOT / ARCHIVES / f"{label}.mar"
        identity = build(ROOT / ARTIFACTS / label, target, settings.dataset)
        print(f"packaged {label} ({target.stat().st_size / 1e6:.1f} MB, {identity.artifact}) as {target}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
