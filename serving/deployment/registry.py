"""Registered versions of a dataset's model in MLflow: register, find, download and describe them.

There is one registered model per dataset. Its versions have aliases:

    champion     the version that should serve
    previous     the champion before it, kept loaded so that a rollback is immediate
    challenger   the version that waits for the gate

This module reads and writes versions. serving/deployment/promotion.py decides which version may become champion.
MLflow is imported inside functions: it takes seconds to load.
"""

from __future__ import annotations

import json
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from config.command import UserError
from training.models.artifact import MANIFEST, ArtifactError, digest_of, verify
from training.tracking import connect, experiment_id, tracking_uri

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

CHAMPION, PREVIOUS, CHALLENGER = "champion", "previous", "challenger"
ARTIFACT_TAG, VERDICT_TAG = "artifact_digest", "gate_verdict"
RUN_TAGS = ("label", "model", "split_id", "dataset_hash")  # tags that a version copies from its run
TARGETS = ("next_item", "horizon")
PERIODS = {"valid": "validation", "test": "test window"}
MAX_ERROR_CHARACTERS = 300

MODEL_DESCRIPTION = """Recommends items of **{dataset}**: one version per exported artifact, whatever kind of model made it.

- `champion` is the version that should serve, `previous` the champion before it; `challenger` waits for the gate.
- A version becomes champion only with a signed gate report that says PROMOTE for its artifact (tags `gate_verdict` and `gate_report`).
- Each alias change is signed, in the tags `alias_change.N`. An alias that was changed by hand is not deployed.
- The run of a version holds its parameters, dataset, curves and plots.
"""


class RegistryError(UserError):
    """The registry does not hold, or does not justify, what was requested; the text says why."""


@dataclass(frozen=True)
class RegisteredVersion:
    """One registered version of a dataset's model."""

    dataset: str
    version: str  # "3"
    artifact: str  # digest of the artifact's manifest, as registered
    source: str  # URI of the artifact folder
    run_id: str

    def __str__(self) -> str:
        return f"{self.dataset} {self.version}"


def registry_client() -> MlflowClient:
    """A client of the registry that this project tracks to."""
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    return connect()


def register_version(dataset: str, artifact: Path, run_id: str | None = None, tags: dict | None = None) -> str:
    """Register an artifact folder and return the version's number.

    The artifact is logged to the run that made it, or to a new run if there is none. An artifact is registered once:
    registering it again returns the version that holds it.

    Raises:
        RegistryError: the folder is corrupt, or the run does not exist.
    """
    try:
        digest = digest_of(verify(artifact))
    except ArtifactError as error:
        raise RegistryError(str(error)) from None
    for known in list_versions(dataset):
        if known.artifact == digest:
            return known.version
    mlflow = registry_client()
    _ensure_model(mlflow, dataset)
    run_id = _ensure_run(mlflow, dataset, run_id)
    folder = f"artifact-{digest[:12]}"  # a run may export more than once
    mlflow.log_artifacts(run_id, str(artifact), folder)
    created = mlflow.create_model_version(
        dataset,
        source=f"runs:/{run_id}/{folder}",
        run_id=run_id,
        tags={**(tags or {}), ARTIFACT_TAG: digest},
    )
    _describe_version(mlflow, dataset, str(created.version))
    return str(created.version)


def list_versions(dataset: str) -> list[RegisteredVersion]:
    """Every registered version, oldest first."""
    entries = registry_client().search_model_versions(f"name='{dataset}'")
    return sorted((_from_mlflow(entry) for entry in entries), key=lambda version: int(version.version))


def version_by_alias(dataset: str, alias: str) -> RegisteredVersion | None:
    """The version that an alias names, whether it may serve or not; None if the alias does not exist."""
    from mlflow.exceptions import MlflowException

    try:
        return _from_mlflow(registry_client().get_model_version_by_alias(dataset, alias))
    except MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            return None
        raise RegistryError(f"the registry cannot be read: {one_line(error)}") from None


def find_version(dataset: str, number_or_alias: str) -> RegisteredVersion:
    """The version with this number or alias.

    Raises:
        RegistryError: there is none.
    """
    from mlflow.exceptions import MlflowException

    if not number_or_alias.isdecimal():
        version = version_by_alias(dataset, number_or_alias)
        if version is None:
            raise RegistryError(f"{dataset} has no {number_or_alias}")
        return version
    try:
        return _from_mlflow(registry_client().get_model_version(dataset, number_or_alias))
    except MlflowException as error:
        raise RegistryError(f"{dataset} {number_or_alias} is not registered: {one_line(error)}") from None


def download_artifact(dataset: str, number_or_alias: str, folder: Path | None = None) -> Path:
    """Download a version's artifact folder and verify each file.

    Args:
        folder: an existing folder to download into; None creates a temporary one, which the caller removes.

    Raises:
        RegistryError: the version does not exist, or its artifact is gone, corrupt, or not the one registered.
    """
    version = find_version(dataset, number_or_alias)
    artifact = _download(version.source, folder or Path(tempfile.mkdtemp(prefix="tidegate-")), version)
    try:
        manifest = verify(artifact)
    except ArtifactError as error:
        raise RegistryError(f"{version}: its artifact is corrupt: {error}") from None
    if digest_of(manifest) != version.artifact:
        raise RegistryError(f"{version}: its artifact is not the one that was registered (the digest differs)")
    return artifact


def read_text(version: RegisteredVersion, uri: str) -> str:
    """The text of a file that was logged for a version."""
    with tempfile.TemporaryDirectory() as folder:
        return _download(uri, Path(folder), version).read_text()


def read_manifest(version: RegisteredVersion) -> dict:
    """The manifest that lies at the version's source now."""
    try:
        return json.loads(read_text(version, f"{version.source}/{MANIFEST}"))
    except ValueError:
        raise RegistryError(f"{version}: its artifact's {MANIFEST} is not JSON") from None


def stored_digest(version: RegisteredVersion) -> str:
    """Digest of the manifest that lies at the version's source now, whatever its tag says."""
    return digest_of(read_manifest(version))


def refit_parent(version: RegisteredVersion) -> str | None:
    """The version of which this one is a refit on all events; None for any other version."""
    return read_manifest(version).get("refit_of", {}).get("version")


def set_verdict(dataset: str, version: str, report: dict) -> None:
    """Write a verdict (PROMOTE or any other) into the version's tag and description."""
    mlflow = registry_client()
    mlflow.set_model_version_tag(dataset, version, VERDICT_TAG, report["verdict"])
    _describe_version(mlflow, dataset, version, f"{report['verdict']}: {report.get('reason', 'no reason was given')}")


def _describe_version(mlflow: MlflowClient, dataset: str, version: str, verdict: str | None = None) -> None:
    """Write a version's description, and copy tags from its run."""
    entry = mlflow.get_model_version(dataset, version)
    run = mlflow.get_run(entry.run_id or "").data
    for key in RUN_TAGS:
        if key in run.tags and key not in entry.tags:
            mlflow.set_model_version_tag(dataset, version, key, run.tags[key])
    label = entry.tags.get("label") or run.tags.get("label") or "a model"
    # The first line is plain text: MLflow's list of versions shows it unformatted.
    lines = [f"{label}: {verdict}" if verdict else label]
    scores = {
        (period, target): run.metrics.get(f"{period}/{target}/ndcg_10") for period in PERIODS for target in TARGETS
    }
    if any(score is not None for score in scores.values()):
        lines += ["", f"| NDCG@10 | {' | '.join(TARGETS)} |", "| --- | --- | --- |"]
        for period, title in PERIODS.items():
            cells = ["" if scores[period, target] is None else f"{scores[period, target]:.4f}" for target in TARGETS]
            lines.append(f"| {title} | {' | '.join(cells)} |")
    mlflow.update_model_version(dataset, version, "\n".join(lines))


def _ensure_model(mlflow: MlflowClient, dataset: str) -> None:
    from mlflow.exceptions import MlflowException

    try:
        mlflow.create_registered_model(dataset, {"dataset": dataset}, MODEL_DESCRIPTION.format(dataset=dataset))
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise RegistryError(f"{dataset} cannot be registered: {one_line(error)}") from None


def _ensure_run(mlflow: MlflowClient, dataset: str, run_id: str | None) -> str:
    from mlflow.exceptions import MlflowException

    if run_id is not None:
        try:
            return mlflow.get_run(run_id).info.run_id
        except MlflowException as error:
            raise RegistryError(f"the run {run_id} cannot be read: {one_line(error)}") from None
    run = mlflow.create_run(experiment_id(mlflow, dataset), run_name="registered without a run")
    mlflow.set_terminated(run.info.run_id)
    return run.info.run_id


def _download(uri: str, folder: Path, version: RegisteredVersion) -> Path:
    from mlflow.artifacts import download_artifacts
    from mlflow.exceptions import MlflowException

    try:
        return Path(download_artifacts(artifact_uri=uri, dst_path=str(folder), tracking_uri=tracking_uri()))
    except (MlflowException, OSError) as error:
        raise RegistryError(f"{version}: {uri} cannot be read: {one_line(error)}") from None


def _from_mlflow(entry: ModelVersion) -> RegisteredVersion:
    digest = entry.tags.get(ARTIFACT_TAG, "")
    return RegisteredVersion(entry.name, str(entry.version), digest, entry.source or "", entry.run_id or "")


def one_line(error: Exception) -> str:
    """An error's text in one line, at most 300 characters."""
    return " ".join(str(error).split())[:MAX_ERROR_CHARACTERS]
