"""Archives as a deployment builds them: signed by the operator, with a statement of the gate about their artifact."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from signing import GATE_SEED, OPERATOR_SEED, line, signed

from serving.artifact.archive import ModelArchive, build_archive
from serving.deployment import archive_signature

TRUSTED = f"{line('gate', GATE_SEED)}\n{line('operator', OPERATOR_SEED)}\n"  # what a host that installs them needs


def signed_archive(
    artifact: Path, target: Path, name: str, version: str, seed: bytes = OPERATOR_SEED, stated: dict | None = None
) -> ModelArchive:
    """Build an archive, signed by the key of a seed; `stated` changes what the gate states."""

    def sign(archive: ModelArchive) -> str:
        statement = {"verdict": "PROMOTE", "dataset": name, "artifact": archive.artifact, **(stated or {})}
        return archive_signature.signer(signed(GATE_SEED, "gate report", statement), partial(signed, seed))(archive)

    return build_archive(artifact, target, name, version, sign=sign)
