"""The registered version behind an answer: find it, read its manifest, load it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from config.paths import SPLIT, sqlite_file
from config.redact import redact
from experiments.lineage.served_log import Line, LineageError
from serving.deployment import registry
from serving.deployment.registry import RegisteredVersion, RegistryError, registry_client
from serving.worker.recommender import Recommender
from training.models.artifact import digest_of
from training.tracking import tracking_uri


def registry_place() -> str:
    """Where the registry is, without credentials.

    Raises:
        LineageError: there is none. Searching must not create one.
    """
    uri = tracking_uri()
    if (file := sqlite_file(uri)) and not file.is_file():
        raise LineageError(f"there is no registry at {uri}; MLFLOW_TRACKING_URI names another one")
    return redact(uri)


def find_version(line: Line) -> RegisteredVersion:
    """The registered version that gave an answer: "3.1" is the second archive of version 3.

    Raises:
        LineageError: the registry does not hold it, or there is no registry.
    """
    number = line["model_version"].partition(".")[0]
    if not number.isdecimal():
        raise LineageError("the answer names no version")
    place = registry_place()
    try:
        return registry.find_version(line["dataset"], number)
    except RegistryError as error:
        raise LineageError(f"{error}; searched {place}") from None


def load_version(line: Line, scratch: Path) -> Recommender:
    """Load the registered version that gave an answer.

    Args:
        scratch: an empty folder for the artifact.

    Raises:
        LineageError, RegistryError: it is missing, corrupt, or not the one that was registered.
    """
    return Recommender.load(registry.download_artifact(find_version(line), scratch), line["model_version"])


def read_manifest(version: RegisteredVersion) -> dict[str, Any]:
    """The manifest of a version's artifact.

    Raises:
        RegistryError: it cannot be read, or is not the one that was registered.
    """
    manifest = registry.read_manifest(version)
    if digest_of(manifest) != version.artifact:
        raise RegistryError(f"{version}: its artifact is not the one that was registered (the digest differs)")
    return manifest


def aliases(version: RegisteredVersion) -> list[str]:
    return sorted(registry_client().get_model_version(version.dataset, version.version).aliases)


def local_dataset_hash() -> str | None:
    """Hash of the dataset version whose split is in this folder."""
    path = SPLIT / "manifest.json"
    return json.loads(path.read_text(encoding="utf-8"))["dataset_hash"] if path.is_file() else None
