"""Trace an answer back to its version, gate report, run, code, dataset version and the events that it read.

The served log holds pseudonyms. Only the key of a line, together with the events themselves, shows who a user is.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from typing import Any

from config import params
from config.command import exits_cleanly
from config.paths import SPLIT
from data.times import to_iso
from experiments.lineage import inputs, report, versions
from experiments.lineage.report import ReportPart
from experiments.lineage.served_log import FROM_EDGE, NOT_COMPUTED, Line, LineageError, find_lines
from serving.deployment import promotion, registry
from serving.deployment.registry import RegisteredVersion, RegistryError, registry_client
from serving.edge import request_log
from training import provenance

NOT_FACTS = ("items", "scores", "inputs", "digest")  # of a line of the served log
GATE_FIELDS = ("verdict", "reason", "date", "against_version", "label")
WITHOUT_EVENTS = {
    request_log.WITHHELD: "the edge withheld the user from the worker, so the answer uses none of their events",
    request_log.FROM_REQUEST: "the request had its own history, which the served log does not hold",
    request_log.NO_HISTORY: "the request names no user and has no history, so the answer uses nobody's events",
}


# --- an answer


def trace(line: Line, secret: bytes | None, user_id: str | None, settings: params.Params) -> list[ReportPart]:
    """Everything that an answer was made from.

    Args:
        line: of the served log.
        user_id: who may have sent the request; None searches all users of the dataset.
    """
    facts = {name.replace("_", " "): value for name, value in line.items() if name not in NOT_FACTS}
    items = zip(line["items"], line["scores"], strict=True)
    rows = [{"place": place, "item_id": item, "score": score} for place, (item, score) in enumerate(items, start=1)]
    parts = [ReportPart("answer", facts, rows)]
    try:
        parts += version_parts(versions.find_version(line))
    except LineageError as error:
        parts.append(ReportPart("version", {"version": line["model_version"] or None}, note=str(error)))
    return [*parts, _events_part(line, secret, user_id, settings)]


def _events_part(line: Line, secret: bytes | None, user_id: str | None, settings: params.Params) -> ReportPart:
    """The events that an answer read, newest first."""
    if line["cache"] == NOT_COMPUTED:
        return ReportPart("events", note=FROM_EDGE)
    if note := WITHOUT_EVENTS.get(line["history_source"]):
        return ReportPart("events", note=note)
    try:
        found_id, reading = inputs.read_user(line, settings.ingest.repeats, secret, user_id, settings)
    except LineageError as error:
        return ReportPart("events", {"pseudonym": line["user"]}, note=str(error))
    rows = [
        {"event_id": event.event_id, "event_time": to_iso(event.time_us), "item_id": event.item_id,
         "event_type": event.event_type, "known_time": to_iso(event.known_us)}
        for event in reading.events[::-1]
    ]  # fmt: skip
    facts = {
        "user": found_id,
        "read from": reading.source,
        "events": len(rows),
        "traits": dict(reading.user.traits),
        "as the answer read them": "not shown" if reading.differs else "yes, by their digest",
    }
    note = reading.user.reason
    if reading.differs:
        note = f"what is here is not what the answer read: {' and '.join(reading.differs)} differ"
    return ReportPart("events", facts, rows, note)


# --- a version


def version_parts(version: RegisteredVersion) -> list[ReportPart]:
    """Everything behind a version. A part that cannot be read says so; the others are shown all the same."""
    facts = {
        "model": version.dataset, "version": version.version, "aliases": versions.aliases(version),
        "artifact": version.artifact, "source": version.source,
    }  # fmt: skip
    parts = [ReportPart("version", facts), _gate_part(version), *_parent_part(version)]
    try:
        manifest = versions.read_manifest(version)
    except RegistryError as error:
        return [*parts, ReportPart("artifact", note=str(error))]
    lock = manifest["lock_hash"]
    code = {
        "commit": manifest["commit"],
        "lock": lock,
        "lock of this clone": "the same" if lock == provenance.lock_hash() else provenance.lock_hash(),
        "model": manifest["model"],
        "fitted until": manifest["fit_until"],
    }
    return [*parts, *_run_and_dataset_parts(manifest), ReportPart("code", code)]


def _gate_part(version: RegisteredVersion) -> ReportPart:
    try:
        gate_report = promotion.verified_target(version).report
    except RegistryError as error:
        return ReportPart("gate report", note=str(error))
    return ReportPart("gate report", {name.replace("_", " "): gate_report.get(name) for name in GATE_FIELDS})


def _parent_part(version: RegisteredVersion) -> list[ReportPart]:
    """For a refit on all events: the version whose gate report it serves under."""
    try:
        number = registry.refit_parent(version)
        parent = registry.find_version(version.dataset, number) if number is not None else None
    except RegistryError:  # the part of the artifact says so
        return []
    if parent is None:
        return []
    gate, facts = _gate_part(parent), {"version": parent.version, "aliases": versions.aliases(parent)}
    return [ReportPart("parent", {**facts, **gate.facts}, note=gate.note)]


def _run_and_dataset_parts(manifest: Mapping[str, Any]) -> list[ReportPart]:
    """The run, and the dataset version."""
    try:
        run = registry_client().get_run(manifest["run_id"])
        facts = {
            "run id": run.info.run_id,
            "name": run.info.run_name,
            "status": run.info.status,
            "params": dict(sorted(run.data.params.items())),
            "metrics": dict(sorted(run.data.metrics.items())),
        }
        run_part = ReportPart("run", facts)
    except RegistryError as error:
        run_part = ReportPart("run", {"run id": manifest["run_id"]}, note=str(error))
    dataset_hash, local = manifest["dataset_hash"], versions.local_dataset_hash()
    note = "" if local == dataset_hash else f"{SPLIT} holds {local or 'none'}; check out the commit and run `dvc pull`"
    facts = {"name": manifest["dataset"], "hash": dataset_hash, "split": manifest["split_id"]}
    facts |= {"in this clone": local == dataset_hash}
    return [run_part, ReportPart("dataset version", facts, note=note)]


@exits_cleanly
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m experiments.trace", description=__doc__.splitlines()[0])
    parser.add_argument("request_id", metavar="REQUEST_ID", help="from the answer")
    parser.add_argument("--user", metavar="ID", help="who sent the request, if the dataset here does not hold the user")
    report.add_options(parser)
    arguments = parser.parse_args(argv)
    folder = report.served_folder(arguments)
    lines = find_lines(folder, arguments.request_id)
    secret = report.secret_of(lines[-1], report.keys_of_users())
    parts = trace(lines[-1], secret, arguments.user, params.load())
    repeated = f", the last of {len(lines)} answers with this id" if len(lines) > 1 else ""
    report.show(f"trace of {arguments.request_id}{repeated}", parts, arguments)
    return 0


if __name__ == "__main__":
    sys.exit(main())
