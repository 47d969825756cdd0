"""From a version back: its gate report, the run that made it, its code and the data set version that it was fitted on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from config.paths import SPLIT
from experiments.lineage.report import Part
from experiments.lineage.served_log import LineageError
from serving.deployment import model_versions, registry
from serving.deployment.model_versions import client
from serving.deployment.registry import RegistryError, Version
from training import provenance
from training.models.artifact import MANIFEST, digest_of
from training.tracking import tracking_uri

HERE = "of this clone"


def version_of(dataset: str, model_version: str | None) -> Version:
    """The registered version behind what an answer states: "3.1" is the second archive of version 3.

    Raises:
        LineageError: the registry does not hold it, or there is none here.
    """
    number = (model_version or "").partition(".")[0]
    if not number.isdecimal():
        stated = repr(model_version) if model_version else "no version"
        raise LineageError(f"the answer states {stated}, which is of no registry")
    place = registry_place()
    try:
        return registry.find(dataset, number)
    except RegistryError as error:
        raise LineageError(f"{error}; looked in {place}") from None


def registry_place() -> str:
    """Where the registry is, without credentials.

    Raises:
        LineageError: there is none: looking must not make one.
    """
    uri = tracking_uri()
    if uri.startswith("sqlite:///") and not Path(uri.removeprefix("sqlite:///")).is_file():
        raise LineageError(f"there is no registry at {uri}; MLFLOW_TRACKING_URI names another one")
    parts = urlsplit(uri)
    return uri.replace(f"{parts.netloc}/", f"{parts.hostname}/", 1) if "@" in parts.netloc else uri


def manifest_of(version: Version) -> dict[str, Any]:
    """What the version's artifact says of itself.

    Raises:
        RegistryError: it cannot be read, or is not what was registered.
    """
    manifest = json.loads(model_versions.read(f"{version.source}/{MANIFEST}", f"{version.dataset} {version.version}"))
    if digest_of(manifest) != version.artifact:
        name = f"{version.dataset} {version.version}"
        raise RegistryError(f"{name}: its artifact is not the one that was registered (the digest differs)")
    return manifest


def parts_of(version: Version) -> list[Part]:
    """Everything behind a version; what cannot be read says so in its part and costs the others nothing."""
    parts = [_version(version), _gate(version), *_parent(version)]
    try:
        manifest = manifest_of(version)
    except RegistryError as error:
        return [*parts, Part("artifact", note=str(error)), _run(version.run_id, version)]
    return [*parts, _run(manifest.get("run_id", version.run_id), version), _code(manifest), _dataset(manifest, version)]


def aliases_of(version: Version) -> list[str]:
    return sorted(client().get_model_version(version.dataset, version.version).aliases)


def _version(version: Version) -> Part:
    facts = {
        "model": version.dataset,
        "version": version.version,
        "aliases": aliases_of(version),
        "artifact": version.artifact,
        "source": version.source,
    }
    return Part("version", facts)


def _gate(version: Version) -> Part:
    try:
        report = registry.justified(version).report
    except RegistryError as error:
        tags = client().get_model_version(version.dataset, version.version).tags
        return Part("gate report", {"verdict": tags.get("gate_verdict")}, note=str(error))
    told = {name: report.get(name) for name in ("verdict", "reason", "date", "against_version", "label")}
    facts = {name.replace("_", " "): value for name, value in told.items()}
    return Part("gate report", facts | {"report": "as the gate wrote it, by its signature"})


def _parent(version: Version) -> list[Part]:
    """Of a refit on all events, the version on whose gate report it rests."""
    try:
        number = model_versions.parent_of(version)
    except RegistryError:  # told with the artifact
        return []
    if number is None:
        return []
    try:
        parent = registry.find(version.dataset, number)
    except RegistryError as error:
        return [Part("parent", {"version": number}, note=str(error))]
    told = _gate(parent)
    return [Part("parent", {"version": number, "aliases": aliases_of(parent), "artifact": parent.artifact, **told.facts},
                 note=told.note)]  # fmt: skip


def _run(run_id: str, version: Version) -> Part:
    from mlflow.exceptions import MlflowException

    try:
        run = client().get_run(run_id)
    except MlflowException:
        stands_in = f"; run {version.run_id} holds the artifact, which was brought here" if version.run_id else ""
        return Part("run", {"run id": run_id}, note=f"{registry_place()} has no such run{stands_in}")
    about = run.info
    facts = {
        "run id": run_id,
        "name": about.run_name,
        "status": about.status,
        "commit": run.data.tags.get("commit"),
        "params": dict(sorted(run.data.params.items())),
        "metrics": dict(sorted(run.data.metrics.items())),
    }
    return Part("run", facts)


def _code(manifest: Mapping[str, Any]) -> Part:
    lock, own = manifest.get("lock_hash"), provenance.lock_hash()
    facts = {
        "commit": manifest.get("commit"),
        "lock": lock,
        "lock of this clone": "the same" if lock == own else own,
        "model": manifest["model"],
        "fitted until": manifest.get("fit_until"),
    }
    return Part("code", facts)


def _dataset(manifest: Mapping[str, Any], version: Version) -> Part:
    stated, here = manifest["dataset_hash"], local_dataset()
    facts = {"name": manifest["dataset"], "hash": stated, "split": manifest.get("split_id"), **_dvc(manifest)}
    if here is None:
        return Part("data set version", facts, note=f"{SPLIT} is not here; `dvc pull` brings it")
    if here != stated:
        pull = "check out the commit above and run `dvc pull`"
        return Part("data set version", facts, note=f"{SPLIT} holds another version, {here}; {pull}")
    return Part("data set version", facts | {HERE: True})


def local_dataset() -> str | None:
    """Hash of the data set version whose split lies here."""
    path = SPLIT / "manifest.json"
    return json.loads(path.read_text())["dataset_hash"] if path.is_file() else None


def _dvc(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """What the run logged of the data set: the md5 by which DVC finds it, and its counts."""
    from mlflow.exceptions import MlflowException

    try:
        logged = client().get_run(manifest.get("run_id", "")).inputs
    except MlflowException:
        return {}
    found = logged.dataset_inputs if logged is not None else []
    return json.loads(found[0].dataset.profile or "{}") if found else {}
