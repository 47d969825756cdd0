"""Registered versions of a data set's model, and the artifact folders behind them.

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

FROM_RUN = ("label", "model", "split_id", "dataset_hash")  # tags that a version takes over from its run
VERDICT = "gate_verdict"
TARGETS = ("next_item", "horizon")
PERIODS = {"valid": "validation", "test": "test window"}

MODEL = """Recommends items of **{dataset}**: one version per exported artifact, whatever kind of model made it.

- `champion` is what should serve; `previous` the champion before it; `challenger` waits for the gate.
- An alias moves only with a signed gate report that says PROMOTE for that very artifact: tags `gate_verdict`, `gate_report`.
- Each move is signed, in the tags `alias_move.N`; what is moved by hand is not deployed.
- Each version's run holds its parameters, data set, curves and plots.
"""


def of_model(dataset: str) -> str:
    """The registered model's description."""
    return MODEL.format(dataset=dataset)


def describe(mlflow: MlflowClient, dataset: str, version: str, gate: str | None = None) -> None:
    """Write a version's description and the tags that it shares with its run, as they are known now.

    Args:
        gate: what the gate said, in one line; None before it spoke.
    """
    entry = mlflow.get_model_version(dataset, version)
    run = mlflow.get_run(entry.run_id or "").data
    for key in FROM_RUN:
        if key in run.tags and key not in entry.tags:
            mlflow.set_model_version_tag(dataset, version, key, run.tags[key])
    label = entry.tags.get("label") or run.tags.get("label") or "a model"
    mlflow.update_model_version(dataset, version, of_version(label, gate, run.metrics))


def of_version(label: str, gate: str | None, metrics: dict[str, float]) -> str:
    """A version's description; the first line is plain text, since the list of versions shows it as it is."""
    first = f"{label}: {gate}" if gate else label
    found = {
        (period, target): metrics[f"{period}/{target}/ndcg_10"]
        for period in PERIODS
        for target in TARGETS
        if f"{period}/{target}/ndcg_10" in metrics
    }
    if not found:
        return first
    rows = [
        f"| {said} | " + " | ".join(_number(found.get((period, target))) for target in TARGETS) + " |"
        for period, said in PERIODS.items()
    ]
    return "\n".join([first, "", "| NDCG@10 | next_item | horizon |", "| --- | --- | --- |", *rows])


def verdict(mlflow: MlflowClient, dataset: str, version: str, report: dict) -> None:
    """Tag a version with what the gate said of it, and say it in its description; any verdict, PROMOTE or not."""
    mlflow.set_model_version_tag(dataset, version, VERDICT, report["verdict"])
    describe(mlflow, dataset, version, f"{report['verdict']}: {report.get('reason', 'no reason was given')}")


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

ARTIFACT_TAG = "artifact_digest"


class RegistryError(UserError):
    """The registry does not hold, or does not justify, what was asked of it; the text says why."""


@dataclass(frozen=True)
class Version:
    """One registered version of a data set's model."""

    dataset: str
    version: str  # "3"
    artifact: str  # digest of the artifact's manifest, as registered
    source: str  # URI of the artifact folder
    run_id: str


def create_version(dataset: str, artifact: Path, run_id: str | None = None, tags: dict | None = None) -> str:
    """Register an artifact folder; the version's number.

    The artifact is logged into the run that made it, or into a run of its own where there is none. The same
    artifact is registered once: a repeat returns the version that holds it.

    Raises:
        RegistryError: the folder is corrupt, or the run does not exist.
    """
    digest = _digest(artifact)
    for known in registered(dataset):
        if known.artifact == digest:
            return known.version
    mlflow = client()
    _ensure_model(mlflow, dataset)
    run_id = _ensure_run(mlflow, dataset, run_id)
    folder = f"artifact-{digest[:12]}"  # a run that exports twice holds two
    mlflow.log_artifacts(run_id, str(artifact), folder)
    made = mlflow.create_model_version(
        dataset,
        source=f"runs:/{run_id}/{folder}",
        run_id=run_id,
        tags={**(tags or {}), ARTIFACT_TAG: digest},
    )
    describe(mlflow, dataset, str(made.version))
    return str(made.version)


def registered(dataset: str) -> list[Version]:
    """Every registered version, oldest first."""
    found = client().search_model_versions(f"name='{dataset}'")
    return sorted((_version(entry) for entry in found), key=lambda version: int(version.version))


def aliased(dataset: str, alias: str) -> Version | None:
    """The version that an alias names, justified or not; None where there is none."""
    from mlflow.exceptions import MlflowException

    try:
        return _version(client().get_model_version_by_alias(dataset, alias))
    except MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            return None
        raise RegistryError(f"the registry cannot be read: {_line(error)}") from None


def find(dataset: str, which: str) -> Version:
    """The version with this number or alias.

    Raises:
        RegistryError: there is none.
    """
    from mlflow.exceptions import MlflowException

    if not which.isdecimal():
        version = aliased(dataset, which)
        if version is None:
            raise RegistryError(f"{dataset} has no {which}")
        return version
    try:
        return _version(client().get_model_version(dataset, which))
    except MlflowException as error:
        raise RegistryError(f"{dataset} {which} is not registered: {_line(error)}") from None


def download(dataset: str, which: str, into: Path | None = None) -> Path:
    """The artifact folder of a version, verified file by file.

    Args:
        which: a version's number or an alias.
        into: an existing folder to put it in; None makes a temporary one, which the caller removes.

    Raises:
        RegistryError: there is no such version, or its artifact is gone, corrupt, or not the one registered.
    """
    version = find(dataset, which)
    name = f"{dataset} {version.version}"
    folder = Path(_fetch(version.source, into or Path(tempfile.mkdtemp(prefix="tidegate-")), name))
    try:
        manifest = verify(folder)
    except ArtifactError as error:
        raise RegistryError(f"{name}: its artifact is corrupt: {error}") from None
    if digest_of(manifest) != version.artifact:
        raise RegistryError(f"{name}: its artifact is not the one that was registered (the digest differs)")
    return folder


def stored_digest(version: Version) -> str:
    """Digest of the manifest that lies at the version's source now, whatever its tag says."""
    return digest_of(stored_manifest(version))


def stored_manifest(version: Version) -> dict:
    """The manifest that lies at the version's source now."""
    name = f"{version.dataset} {version.version}"
    try:
        return json.loads(read(f"{version.source}/{MANIFEST}", name))
    except ValueError:
        raise RegistryError(f"{name}: its artifact's {MANIFEST} is not JSON") from None


def parent_of(version: Version) -> str | None:
    """The version whose recipe this one is, fitted once more on all events; None for any other version."""
    return stored_manifest(version).get("refit_of", {}).get("version")


def read(uri: str, name: str) -> str:
    """The text of a logged artifact; `name` says in errors whose it is."""
    with tempfile.TemporaryDirectory() as folder:
        return _fetch(uri, Path(folder), name).read_text()


def client() -> MlflowClient:
    """A client of the registry that this project tracks to."""
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    return connect()


def _fetch(uri: str, into: Path, name: str) -> Path:
    from mlflow.artifacts import download_artifacts
    from mlflow.exceptions import MlflowException

    try:
        return Path(download_artifacts(artifact_uri=uri, dst_path=str(into), tracking_uri=tracking_uri()))
    except (MlflowException, OSError) as error:
        raise RegistryError(f"{name}: {uri} cannot be read: {_line(error)}") from None


def _ensure_model(mlflow: MlflowClient, dataset: str) -> None:
    from mlflow.exceptions import MlflowException

    try:
        mlflow.create_registered_model(dataset, {"dataset": dataset}, of_model(dataset))
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise RegistryError(f"{dataset} cannot be registered: {_line(error)}") from None


def _ensure_run(mlflow: MlflowClient, dataset: str, run_id: str | None) -> str:
    from mlflow.exceptions import MlflowException

    if run_id is not None:
        try:
            return mlflow.get_run(run_id).info.run_id
        except MlflowException as error:
            raise RegistryError(f"the run {run_id} cannot be read: {_line(error)}") from None
    run = mlflow.create_run(experiment_id(mlflow, dataset), run_name="registered without a run")
    mlflow.set_terminated(run.info.run_id)
    return run.info.run_id


def _version(entry: ModelVersion) -> Version:
    digest = entry.tags.get(ARTIFACT_TAG, "")
    return Version(entry.name, str(entry.version), digest, entry.source or "", entry.run_id or "")


def _digest(artifact: Path) -> str:
    try:
        return digest_of(verify(artifact))
    except ArtifactError as error:
        raise RegistryError(str(error)) from None


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
