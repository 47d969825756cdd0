"""Upstream of an answer: its version, gate report, run, code, dataset version, and the events that it read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from config import params
from config.paths import SPLIT
from data.times import to_iso
from experiments.lineage import inputs
from experiments.lineage.inputs import UserReading
from experiments.lineage.report import ReportPart
from experiments.lineage.served_log import FROM_EDGE, NOT_COMPUTED, Line, LineageError
from serving.deployment import promotion, registry
from serving.deployment.registry import RegisteredVersion, RegistryError, registry_client
from serving.edge import request_log
from training import provenance
from training.models.artifact import MANIFEST, digest_of
from training.tracking import tracking_uri

HERE = "in this clone"
ANSWER_FIELDS = ("request_id", "request_time", "time", "source", "reason", "k", "cache", "consent", "history_source", "user", "feature_time",
                 "trends_time", "segments", "experiment", "bucket", "milliseconds", "computed_on")  # fmt: skip
WITHOUT_EVENTS = {
    request_log.WITHHELD: "the edge withheld the user from the worker, so the answer uses none of their events",
    request_log.FROM_REQUEST: "the request stated its own history, which the served log does not hold",
    request_log.NO_HISTORY: "the request names no user and states no history, so the answer uses nobody's events",
}


# --- an answer


def trace(
    line: Line, answers: int, secret: bytes | None, user_id: str | None, settings: params.Params
) -> list[ReportPart]:
    """Everything that an answer was made from.

    Args:
        line: of the served log.
        answers: the number of answers with its request id.
        user_id: who is thought to have asked; None searches all users of the dataset.
    """
    parts, version = [_answer_part(line, answers)], None
    try:
        version = find_version(line.get("dataset") or settings.dataset, line["model_version"])
        parts += version_parts(version)
    except LineageError as error:
        parts.append(ReportPart("version", {"version": line["model_version"] or None}, note=str(error)))
    return [*parts, _events_part(line, version, secret, user_id, settings)]


def _answer_part(line: Line, answers: int) -> ReportPart:
    facts = {name.replace("_", " "): line.get(name) for name in ANSWER_FIELDS}
    scores = line.get("scores") or [None] * len(line["items"])
    rows = [
        {"place": place, "item_id": item, "score": score}
        for place, (item, score) in enumerate(zip(line["items"], scores, strict=True), start=1)
    ]
    note = f"{answers} answers have this request id; this is the last" if answers > 1 else ""
    return ReportPart("answer", facts, rows, note)


def _events_part(
    line: Line, version: RegisteredVersion | None, secret: bytes | None, user_id: str | None, settings: params.Params
) -> ReportPart:
    if line.get("cache") == NOT_COMPUTED:
        return ReportPart("events", note=FROM_EDGE)
    if note := WITHOUT_EVENTS.get(line.get("history_source", "")):
        return ReportPart("events", note=note)
    if line["user"] is None:
        return ReportPart("events", note=WITHOUT_EVENTS[request_log.NO_HISTORY])
    found_id = inputs.find_user(line, secret, user_id)
    if found_id is None:
        if reading := inputs.empty_reading(line, secret):
            return _reading_part(line, reading)
        return ReportPart("events", {"pseudonym": line["user"]}, note=inputs.why_user_unknown(secret, user_id))
    reading = inputs.read_user(line, found_id, _repeats(version, settings), secret, settings)
    if reading is None:
        return ReportPart(
            "events", {"user": found_id}, note="neither the dataset's events nor an online store are here"
        )
    return _reading_part(line, reading, {"user": found_id})


def _reading_part(line: Line, reading: UserReading, user: Mapping[str, str] | None = None) -> ReportPart:
    """The events that an answer read, newest first."""
    rows = [
        {"event_id": event.event_id, "event_time": to_iso(event.time_us), "item_id": event.item_id,
         "event_type": event.event_type, "known_time": to_iso(event.known_us)}
        for event in reading.events[::-1]
    ]  # fmt: skip
    verified = not reading.differs and line.get("inputs") is not None
    facts = {"read from": reading.source, "events": len(rows), "traits": dict(reading.user.traits)}
    facts |= {"as the answer read them": "yes, by their digest" if verified else "not shown"}
    note = reading.user.reason
    if reading.differs:
        note = f"what is here is not what the answer read: {' and '.join(reading.differs)} differ"
    return ReportPart("events", {**(user or {}), **facts}, rows, note)


def _repeats(version: RegisteredVersion | None, settings: params.Params) -> str:
    """How the model reads repeated items: as its artifact says, else as params.yaml says."""
    if version is None:
        return settings.ingest.repeats
    try:
        return json.loads(registry.read_text(version, f"{version.source}/config.json"))["repeats"]
    except (RegistryError, ValueError, KeyError):
        return settings.ingest.repeats


# --- a version


def find_version(dataset: str, model_version: str | None) -> RegisteredVersion:
    """The registered version that an answer states: "3.1" is the second archive of version 3.

    Raises:
        LineageError: the registry does not hold it, or there is no registry.
    """
    number = (model_version or "").partition(".")[0]
    if not number.isdecimal():
        stated = repr(model_version) if model_version else "no version"
        raise LineageError(f"the answer states {stated}, which is not in any registry")
    place = registry_place()
    try:
        return registry.find_version(dataset, number)
    except RegistryError as error:
        raise LineageError(f"{error}; searched {place}") from None


def registry_place() -> str:
    """Where the registry is, without credentials.

    Raises:
        LineageError: there is none. Searching must not create one.
    """
    uri = tracking_uri()
    if uri.startswith("sqlite:///") and not Path(uri.removeprefix("sqlite:///")).is_file():
        raise LineageError(f"there is no registry at {uri}; MLFLOW_TRACKING_URI names another one")
    parts = urlsplit(uri)
    return uri.replace(f"{parts.netloc}/", f"{parts.hostname}/", 1) if "@" in parts.netloc else uri


def read_manifest(version: RegisteredVersion) -> dict[str, Any]:
    """The manifest of a version's artifact.

    Raises:
        RegistryError: it cannot be read, or is not the one that was registered.
    """
    name = f"{version.dataset} {version.version}"
    manifest = json.loads(registry.read_text(version, f"{version.source}/{MANIFEST}"))
    if digest_of(manifest) != version.artifact:
        raise RegistryError(f"{name}: its artifact is not the one that was registered (the digest differs)")
    return manifest


def version_parts(version: RegisteredVersion) -> list[ReportPart]:
    """Everything behind a version. A part that cannot be read says so; the others are shown all the same."""
    parts = [_version_part(version), _gate_part(version), *_parent_part(version)]
    try:
        manifest = read_manifest(version)
    except RegistryError as error:
        return [*parts, ReportPart("artifact", note=str(error)), _run_part(version.run_id, version)]
    run = _run_part(manifest.get("run_id", version.run_id), version)
    return [*parts, run, _code_part(manifest), _dataset_part(manifest)]


def version_aliases(version: RegisteredVersion) -> list[str]:
    return sorted(registry_client().get_model_version(version.dataset, version.version).aliases)


def local_dataset_hash() -> str | None:
    """Hash of the dataset version whose split is here."""
    path = SPLIT / "manifest.json"
    return json.loads(path.read_text())["dataset_hash"] if path.is_file() else None


def _version_part(version: RegisteredVersion) -> ReportPart:
    facts = {
        "model": version.dataset, "version": version.version, "aliases": version_aliases(version),
        "artifact": version.artifact, "source": version.source,
    }  # fmt: skip
    return ReportPart("version", facts)


def _gate_part(version: RegisteredVersion) -> ReportPart:
    try:
        report = promotion.verified_target(version).report
    except RegistryError as error:
        tags = registry_client().get_model_version(version.dataset, version.version).tags
        return ReportPart("gate report", {"verdict": tags.get("gate_verdict")}, note=str(error))
    names = ("verdict", "reason", "date", "against_version", "label")
    facts = {name.replace("_", " "): report.get(name) for name in names}
    return ReportPart("gate report", facts | {"report": "as the gate wrote it, by its signature"})


def _parent_part(version: RegisteredVersion) -> list[ReportPart]:
    """For a refit on all events: the version whose gate report it serves under."""
    try:
        number = registry.refit_parent(version)
    except RegistryError:  # the part of the artifact says so
        return []
    if number is None:
        return []
    try:
        parent = registry.find_version(version.dataset, number)
    except RegistryError as error:
        return [ReportPart("parent", {"version": number}, note=str(error))]
    gate = _gate_part(parent)
    facts = {"version": number, "aliases": version_aliases(parent), "artifact": parent.artifact, **gate.facts}
    return [ReportPart("parent", facts, note=gate.note)]


def _run_part(run_id: str, version: RegisteredVersion) -> ReportPart:
    from mlflow.exceptions import MlflowException  # slow to import

    try:
        run = registry_client().get_run(run_id)
    except MlflowException:
        copy = f"; run {version.run_id} holds the artifact, which was copied here" if version.run_id else ""
        return ReportPart("run", {"run id": run_id}, note=f"{registry_place()} has no such run{copy}")
    facts = {
        "run id": run_id,
        "name": run.info.run_name,
        "status": run.info.status,
        "commit": run.data.tags.get("commit"),
        "params": dict(sorted(run.data.params.items())),
        "metrics": dict(sorted(run.data.metrics.items())),
    }
    return ReportPart("run", facts)


def _code_part(manifest: Mapping[str, Any]) -> ReportPart:
    lock, own = manifest.get("lock_hash"), provenance.lock_hash()
    facts = {
        "commit": manifest.get("commit"),
        "lock": lock,
        "lock of this clone": "the same" if lock == own else own,
        "model": manifest["model"],
        "fitted until": manifest.get("fit_until"),
    }
    return ReportPart("code", facts)


def _dataset_part(manifest: Mapping[str, Any]) -> ReportPart:
    stated, here = manifest["dataset_hash"], local_dataset_hash()
    facts = {
        "name": manifest["dataset"],
        "hash": stated,
        "split": manifest.get("split_id"),
        **_logged_dataset(manifest),
    }
    if here == stated:
        return ReportPart("dataset version", facts | {HERE: True})
    note = (
        f"{SPLIT} is missing; `dvc pull` brings it"
        if here is None
        else f"{SPLIT} holds another version, {here}; check out the commit above and run `dvc pull`"
    )
    return ReportPart("dataset version", facts, note=note)


def _logged_dataset(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """What the run logged about the dataset: the md5 by which DVC finds it, and its counts."""
    from mlflow.exceptions import MlflowException  # slow to import

    try:
        logged = registry_client().get_run(manifest.get("run_id", "")).inputs
    except MlflowException:
        return {}
    found = logged.dataset_inputs if logged is not None else []
    return json.loads(found[0].dataset.profile or "{}") if found else {}
