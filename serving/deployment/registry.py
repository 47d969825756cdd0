"""Registered versions of a dataset's model in MLflow: register, find, download and describe them.

There is one registered model per dataset. serving/deployment/promotion.py decides which version becomes champion.
MLflow is imported inside functions: it takes seconds to load.
"""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from config import files
from serving.deployment.errors import RegistryError
from training.models.artifact import MANIFEST, ArtifactError, digest_of, verify
from training.tracking import connect, experiment_id, is_missing, mlflow_errors, tracking_uri

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion, RegisteredModel

CHAMPION, PREVIOUS, CHALLENGER = "champion", "previous", "challenger"  # aliases; docs/deployment.md explains them
ARTIFACT_TAG, VERDICT_TAG = "artifact_digest", "gate_verdict"
RUN_TAGS = ("label", "model", "split_id", "dataset_hash")  # tags that a version copies from its run
TARGETS = ("next_item", "horizon")
PERIODS = {"valid": "validation", "test": "test window"}

LOST_HINT = (
    "restore it from a backup, or let another version serve (`python -m serving.deploy --rollback` or --override)"
)

MODEL_DESCRIPTION = """Recommends items of **{dataset}**: one version per exported artifact, whatever kind of model made it.

- `champion` is the version that should serve, `previous` the champion before it; `challenger` waits for the gate.
- A version becomes champion only with a signed gate report that says PROMOTE for its artifact (tags `gate_verdict` and `gate_report`).
- Each decision is signed, in the tags `decision.N`. An alias that was changed by hand is not deployed.
- The run of a version holds its parameters, dataset, curves and plots.
"""


def is_unavailable(error: RegistryError) -> bool:
    """Whether MLflow or its database failed, in contrast to what the registry holds."""
    return error.__cause__ is not None and not is_missing(error)


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
    """A client of the registry that this project tracks to; its calls raise RegistryError."""
    return connect(RegistryError)


def register_version(dataset: str, artifact: Path, run_id: str | None = None, tags: dict | None = None) -> str:
    """Register an artifact folder, once, and return the version's number.

    The artifact is logged to the run that made it, or to a new run if there is none.

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
    if registered_model(dataset) is None:
        mlflow.create_registered_model(dataset, {"dataset": dataset}, MODEL_DESCRIPTION.format(dataset=dataset))
    run_id = _ensure_run(mlflow, dataset, run_id)
    folder = f"artifact-{digest[:12]}"  # a run may export more than once
    mlflow.log_artifacts(run_id, str(artifact), folder)
    sync_logged(mlflow, run_id, folder)
    source, tags = f"runs:/{run_id}/{folder}", {**(tags or {}), ARTIFACT_TAG: digest}
    created = mlflow.create_model_version(dataset, source=source, run_id=run_id, tags=tags)
    _describe_version(mlflow, dataset, str(created.version))
    return str(created.version)


def sync_logged(mlflow: MlflowClient, run_id: str, folder: str) -> None:
    """Flush a folder of a run's artifacts to disk, where they lie in files: the database must not name what is lost."""
    address = urlsplit(mlflow.get_run(run_id).info.artifact_uri)
    if address.scheme in ("", "file"):
        root = Path(unquote(address.path))
        files.sync_tree(root / folder)
        for above in (root / folder).parents[: len(Path(folder).parts) + 3]:  # up to the folder of all datasets
            files.sync(above)


def list_versions(dataset: str) -> list[RegisteredVersion]:
    """Every registered version, oldest first."""
    entries = registry_client().search_model_versions(f"name='{dataset}'")
    return sorted((_from_mlflow(entry) for entry in entries), key=lambda version: int(version.version))


def registered_model(dataset: str) -> RegisteredModel | None:
    """The registered model of a dataset, with its aliases and tags; None if nothing is registered."""
    try:
        return registry_client().get_registered_model(dataset)  # half the time of a search
    except RegistryError as error:
        if is_missing(error):
            return None
        raise


def version_number(dataset: str, alias: str) -> str | None:
    """The number of the version that an alias names, whether it may serve or not; None if the alias does not exist."""
    model = registered_model(dataset)
    number = model.aliases.get(alias) if model else None
    return None if number is None else str(number)


def version_by_alias(dataset: str, alias: str) -> RegisteredVersion | None:
    """As `version_number`, with what is registered of the version."""
    number = version_number(dataset, alias)
    return None if number is None else find_version(dataset, number)


def find_version(dataset: str, number: str) -> RegisteredVersion:
    """The version with this number; raises RegistryError if there is none."""
    try:
        return _from_mlflow(registry_client().get_model_version(dataset, number))
    except RegistryError as error:
        if is_missing(error):
            raise RegistryError(f"{dataset} {number} is not registered, or was deleted") from error
        raise


def is_registered(dataset: str, number: str) -> bool:
    """Whether a version exists. A deleted one does not: MLflow removes it with its aliases."""
    return any(version.version == number for version in list_versions(dataset))


def download_artifact(version: RegisteredVersion, folder: Path) -> Path:
    """Download a version's artifact into an existing folder and verify each file; the artifact's folder.

    Raises:
        RegistryError: the artifact is gone, corrupt, or not the one registered.
    """
    artifact = _download(version.source, folder, version)
    try:
        manifest = verify(artifact)
    except ArtifactError as error:
        raise RegistryError(f"{version}: its artifact is corrupt: {error}; {LOST_HINT}") from None
    if digest_of(manifest) != version.artifact:
        raise RegistryError(f"{version}: its artifact is not the one that was registered (the digest differs)")
    return artifact


def read_text(version: RegisteredVersion, uri: str) -> str:
    """The text of a file that was logged for a version."""
    with tempfile.TemporaryDirectory() as folder:
        return _download(uri, Path(folder), version).read_text(encoding="utf-8")


def read_manifest(version: RegisteredVersion) -> dict:
    """The manifest that lies at the version's source now."""
    try:
        return json.loads(read_text(version, f"{version.source}/{MANIFEST}"))
    except ValueError:
        raise RegistryError(f"{version}: its artifact's {MANIFEST} is lost or not JSON; {LOST_HINT}") from None


def stored_digest(version: RegisteredVersion) -> str:
    """Digest of the manifest that lies at the version's source now, whatever its tag says."""
    return digest_of(read_manifest(version))


def recipe_of(manifest: dict) -> str:
    """Hash of what an artifact was fitted with and on; fits with the same hash are the same model, or nearly so.

    Run, commit, seed and label do not count. An artifact whose manifest lacks the parameters is known by its files.
    """
    names = ("params", "dataset", "dataset_hash", "split_id", "fit_until_us")
    stated = {name: manifest.get(name) for name in (names if "params" in manifest else ("files",))}
    return sha256(json.dumps(stated, sort_keys=True).encode()).hexdigest()


def refit_parent(version: RegisteredVersion) -> str | None:
    """The version of which this one is a refit on all events; None if it is no refit."""
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
    table = ["", f"| NDCG@10 | {' | '.join(TARGETS)} |", "| --- | --- | --- |"]
    for period, title in PERIODS.items():
        scores = [run.metrics.get(f"{period}/{target}/ndcg_10") for target in TARGETS]
        table.append(f"| {title} | {' | '.join('' if score is None else f'{score:.4f}' for score in scores)} |")
    if any(name.endswith("/ndcg_10") for name in run.metrics):
        lines += table
    mlflow.update_model_version(dataset, version, "\n".join(lines))


def _ensure_run(mlflow: MlflowClient, dataset: str, run_id: str | None) -> str:
    if run_id is not None:
        return mlflow.get_run(run_id).info.run_id
    run = mlflow.create_run(experiment_id(mlflow, dataset), run_name="registered without a run")
    mlflow.set_terminated(run.info.run_id)
    return run.info.run_id


def _download(uri: str, folder: Path, version: RegisteredVersion) -> Path:
    from mlflow.artifacts import download_artifacts

    try:
        with mlflow_errors(f"{version}: {uri} cannot be read", RegistryError):
            return Path(download_artifacts(artifact_uri=uri, dst_path=str(folder), tracking_uri=tracking_uri()))
    except RegistryError as error:
        raise RegistryError(f"{error}; {LOST_HINT}") from None


def _from_mlflow(entry: ModelVersion) -> RegisteredVersion:
    digest = entry.tags.get(ARTIFACT_TAG, "")
    return RegisteredVersion(entry.name, str(entry.version), digest, entry.source or "", entry.run_id or "")
