"""Sign the archives that this machine builds, and verify an archive before any of its code runs.

A signature binds the whole content of an archive, code included, to the signed text that lets its version serve: the gate's
statement, or an override. Who verifies needs the trusted public keys, and no registry.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from config import files
from serving.artifact.archive import ModelArchive, PackageError, copy_archive, read_archive
from serving.deployment import rollout_stage
from serving.deployment.errors import SignatureError
from serving.deployment.rollout_stage import StageError, served_versions
from serving.deployment.verify_signature import verify
from serving.settings import ServerSettings

SIGNED_KIND = "archive"
JUSTIFICATIONS = ("gate report", "override")  # kinds of signed texts
PROMOTE = "PROMOTE"


def signer(justification: str, sign: Callable[[str, dict], str]) -> Callable[[ModelArchive], str]:
    """What `build_archive` takes to sign an archive.

    Args:
        justification: the signed text that lets its version serve.
        sign: `signature.sign`, which needs the registry, and this file does not.
    """
    return lambda archive: json.dumps(
        {"archive": sign(SIGNED_KIND, _statement(archive)), "justification": justification}
    )


def store_verified(path: Path, model_store: Path) -> ModelArchive:
    """Verify an archive and copy it into the model store, where it may lie already.

    Raises:
        PackageError: it is not a Tidegate archive, or a byte of it was changed.
        SignatureError: it is not signed by a trusted key, or its justification is of another version or artifact.
    """
    archive = read_archive(path)
    _verify_signature(archive)
    stored = model_store / f"{archive.name}-{archive.version}.mar"
    with files.replacing(stored) as partial:  # durable: there may be no registry to build it from again
        copy_archive(archive, partial)
    return read_archive(stored)


def verified_archives(settings: ServerSettings, progress: Callable[[str], None] = print) -> set[Path]:
    """The verified archives of the model store, with which TorchServe may start.

    None of a dataset whose version that serves is not among them: the server would take another one as its default.
    """
    store, verified = settings.model_store, []
    for path in sorted(store.glob("*.mar")):
        try:
            verified.append(store_verified(path, store))
        except (PackageError, SignatureError) as error:
            progress(f"not loaded: {error}")
    paths = {archive.path for archive in verified}
    for name in {archive.name for archive in verified}:
        with suppress(StageError):  # a deployment reports it
            stage = rollout_stage.read_stage(rollout_stage.stage_path(name, settings))
            if stage is not None and store / f"{name}-{served_versions(stage)[0]}.mar" not in paths:
                paths -= {archive.path for archive in verified if archive.name == name}
    return paths


def _verify_signature(archive: ModelArchive) -> None:
    """Verify that what the manifest of an archive states is signed; that its content is that, is not verified here."""
    text = archive.signature
    if text is None:
        raise SignatureError(f"{archive.path} is not signed; install an archive that `python -m serving.deploy` built")
    try:
        proof = json.loads(text)
        own, justification = str(proof["archive"]), str(proof["justification"])
    except (ValueError, KeyError, TypeError):
        raise SignatureError(f"{archive.path} carries no signature that can be read") from None
    signed = verify(SIGNED_KIND, own, str(archive.path))
    if any(signed.get(key) != value for key, value in _statement(archive).items()):
        raise SignatureError(f"{archive.path} carries the signature of another archive")
    reason = verify(JUSTIFICATIONS, justification, f"{archive.path}: what lets it serve")
    if (reason.get("dataset"), reason.get("artifact")) != (archive.name, archive.artifact):
        raise SignatureError(f"{archive.path}: what lets it serve is of {reason.get('dataset')}, another artifact")
    if reason["kind"] == JUSTIFICATIONS[0] and reason.get("verdict") != PROMOTE:
        raise SignatureError(f"{archive.path}: its gate report says {reason.get('verdict')}, not {PROMOTE}")


def _statement(archive: ModelArchive) -> dict:
    return {key: getattr(archive, key) for key in ("name", "version", "artifact", "content")}
