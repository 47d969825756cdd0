"""Follow an event, a user, an item or a dataset version to runs, versions, endpoints and answers."""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from config import params
from config.command import exits_cleanly
from config.paths import INGESTED, SPLIT
from data.collect.event_log import Position
from data.collect.partitions import events_at
from data.columns import EVENT_ID, EVENT_TIME, ITEM, KNOWN_TIME, PART, USER
from data.files import read_json
from data.tables import microseconds, read_table
from data.times import from_iso, to_iso
from experiments.lineage import report, versions
from experiments.lineage.inputs import EVENTS, NO_SECRET
from experiments.lineage.report import ReportPart
from experiments.lineage.served_log import NOT_COMPUTED, Line, LineageError, read_lines
from features.feature_files import CUTS, FULL, cut_time
from serving import settings as environment
from serving.deployment import registry
from serving.deployment.registry import RegisteredVersion, RegistryError, registry_client
from serving.edge.request_log import FROM_STORE, pseudonym
from serving.edge.user_keys import UserKey
from serving.torchserve.client import ServerError, TorchServe

RUNS_PER_QUERY = 1000
ID_COLUMNS = {"event": EVENT_ID, "user": USER, "item": ITEM}


@dataclass(frozen=True)
class Origin:
    """The data whose impact is requested."""

    dataset: str  # the name of the dataset and its model
    hash: str  # of the dataset version that holds the data, or the beginning of the hash
    since_us: int = 0  # from when on a fit could read it; 0 if any fit on the version did

    def may_reach(self, until_us: int | None) -> bool:
        """Whether a fit on what was known at a time may have read the data; True if the time is unknown."""
        return until_us is None or self.since_us <= until_us


# --- the impact of a dataset version, an event, a user or an item


def dataset_impact(hash_prefix: str, folder: Path, settings: params.Params) -> list[ReportPart]:
    """The impact of a dataset version.

    Args:
        hash_prefix: its hash, or the beginning of it.
        folder: of the served log.

    Raises:
        LineageError: it is no hash.
    """
    if not re.fullmatch("[0-9a-f]{6,}", hash_prefix):
        raise LineageError(f"--dataset is {hash_prefix!r}; expected a hash, or its first 6 digits or more")
    local = versions.local_dataset_hash() or ""
    facts = {"name": settings.dataset, "hash": hash_prefix, "in this clone": local.startswith(hash_prefix)}
    origin = Origin(settings.dataset, hash_prefix)
    answers = _answers_part(
        folder, "answers by versions fitted on it", lambda line: line["dataset_version"].startswith(hash_prefix)
    )
    return [ReportPart("dataset version", facts), runs_part(origin), versions_part(origin), answers]


def events_impact(
    kind: str, name: str, folder: Path, keys: Sequence[UserKey], settings: params.Params
) -> list[ReportPart]:
    """The impact of an event, or of all events of a user or an item.

    Args:
        kind: event, user or item.
        name: its id; of a collected event also its position in the event log.
        folder: of the served log.

    Raises:
        LineageError: neither an event nor an answer of it is here.
    """
    events, dataset_hash = read_table(EVENTS, "dvc pull"), versions.local_dataset_hash() or ""
    found = events[events[ID_COLUMNS[kind]] == name]
    if kind == "event" and not len(found) and re.fullmatch(r"\d+:\d+", name):
        found = events[events[EVENT_ID].isin(_events_at(Position.parse(name)))]
    if not len(found):
        reason = f"there is no {kind} {name!r} among the {len(events):,} events of version {dataset_hash} in {EVENTS}"
        answers = _answers_to(kind, name, name, 0, folder, keys) if kind != "event" else ReportPart("answers")
        if not answers.rows:
            raise LineageError(reason)
        return [ReportPart(kind, {"id": name, "events": 0}, note=reason), answers]
    times, known = microseconds(found[EVENT_TIME]), microseconds(found[KNOWN_TIME])
    origin = Origin(settings.dataset, dataset_hash, int(np.maximum(times + 1, known).min()))

    def holds(version: RegisteredVersion) -> bool:
        """Whether the version's vocabulary holds the item; True for an event or a user."""
        return kind != "item" or name in json.loads(registry.read_text(version, f"{version.source}/vocabulary.json"))

    facts: dict[str, Any] = {"id": name, "dataset version": dataset_hash, "events": len(found)}
    facts |= {"first": to_iso(int(times.min())), "last": to_iso(int(times.max()))}
    if kind == "event":
        facts |= {"id": ", ".join(found[EVENT_ID]), "user": found[USER].iloc[0], "item": found[ITEM].iloc[0]}
    facts |= {"parts": {part: int(count) for part, count in found[PART].value_counts().items()}}
    return [
        ReportPart(kind, facts),
        runs_part(origin),
        versions_part(origin, holds),
        _answers_to(kind, name, str(found[USER].iloc[0]), origin.since_us, folder, keys),
    ]


def _events_at(position: Position) -> list[str]:
    """The ids of the events at a position of the event log, from the partitions that the dataset was made of.

    Raises:
        LineageError: the dataset was not made of what lies there.
    """
    source = read_json(INGESTED / "manifest.json", "dvc pull")["source"]
    read = source.get("positions", [])
    ranges = [[Position.parse(end) for end in text.split(" to ")] for text in read]
    if not any(first <= position <= last for first, last in ranges):
        raise LineageError(f"the dataset read positions {', '.join(read) or 'of no event log'}, not {position}")
    return events_at(Path(source["files"][0]), position)


# --- runs, versions, answers


def runs_part(origin: Origin) -> ReportPart:
    """Runs that were fitted on the data, newest first."""
    place = versions.registry_place()
    rows = [
        {"run": run.info.run_id, "name": run.info.run_name, "stage": run.data.tags.get("stage"),
         "status": run.info.status, "commit": run.data.tags.get("commit", "")[:12]}
        for run in _runs_on(origin)
        if origin.may_reach(_fit_until(run.data.tags))
    ]  # fmt: skip
    return ReportPart("runs", {"fitted on it": len(rows), "searched": place}, rows)


def _runs_on(origin: Origin) -> Iterator[Any]:
    """All runs on the dataset version."""
    mlflow = registry_client()
    experiment = mlflow.get_experiment_by_name(origin.dataset)
    query, token = f"tags.dataset_hash LIKE '{origin.hash}%'", None
    while experiment is not None:
        runs = mlflow.search_runs([experiment.experiment_id], query, max_results=RUNS_PER_QUERY, page_token=token)
        yield from runs
        token = runs.token
        if not token:
            return


def _fit_until(tags: Mapping[str, str]) -> int | None:
    """Until when a run read events; None if its split is not the one here."""
    path = SPLIT / "manifest.json"
    split = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    if split.get("split_id") != tags.get("split_id") or tags.get("cut") not in (*CUTS, FULL):
        return None
    return cut_time(tags["cut"], split)


def versions_part(origin: Origin, holds: Callable[[RegisteredVersion], bool] = lambda version: True) -> ReportPart:
    """Versions that were fitted on the data, and which of them are live.

    Args:
        holds: a further condition on a version.
    """
    live, live_note = _live_versions(origin.dataset)
    rows, notes = [], [live_note] if live_note else []
    for version in registry.list_versions(origin.dataset):
        try:
            manifest = versions.read_manifest(version)
            on_it = manifest["dataset_hash"].startswith(origin.hash) and origin.may_reach(manifest["fit_until_us"])
            if on_it and holds(version):
                rows.append({
                    "version": version.version,
                    "model": manifest["label"],
                    "refit of": manifest.get("refit_of", {}).get("version"),
                    "aliases": versions.aliases(version),
                    "fitted until": manifest["fit_until"],
                    "live": live.get(version.version, "-"),
                    "run": manifest["run_id"],
                })  # fmt: skip
        except RegistryError as error:
            notes.append(str(error))
    live_rows = [f"{row['version']} ({row['live']})" for row in rows if row["live"] != "-"]
    return ReportPart("versions", {"fitted on it": len(rows), "live": live_rows}, rows, "; ".join(notes))


def _live_versions(dataset: str) -> tuple[dict[str, str], str]:
    """(registry version -> default or loaded, "") from TorchServe, or ({}, why they are unknown)."""
    settings = environment.load()
    try:
        with TorchServe.from_settings(settings) as server:
            live = server.describe(dataset)
    except ServerError:
        return {}, f"TorchServe does not answer at {settings.management_url}, so the live versions are unknown"
    return {name.partition(".")[0]: "default" if one.default else "loaded" for name, one in live.items()}, ""


def _answers_to(kind: str, name: str, user_id: str, since_us: int, folder: Path, keys: Sequence[UserKey]) -> ReportPart:
    """The answers that list an item, went to a user, or could read an event."""
    if kind == "item":
        return _answers_part(folder, "answers that list it", lambda line: name in line["items"])
    if not keys:
        return ReportPart("answers", note=f"{NO_SECRET}, so no user can be found in the served log")
    hidden_ids = {pseudonym(key.secret, user_id) for key in keys}
    if kind == "user":
        return _answers_part(folder, "answers to this user", lambda line: line["user"] in hidden_ids)

    def could_read(line: Line) -> bool:
        """It was computed for the user, from the stored history, after the event was known."""
        computed = line["user"] in hidden_ids and line["cache"] != NOT_COMPUTED
        return computed and line["history_source"] == FROM_STORE and from_iso(line["time"]) >= since_us

    return _answers_part(folder, "answers that could read it", could_read)


def _answers_part(folder: Path, name: str, reached: Callable[[Line], bool]) -> ReportPart:
    """Answers of the served log that the data reached, newest first."""
    rows = [
        {"request_id": line["request_id"], "time": line["time"], "version": line["model_version"],
         "source": line["source"]}
        for line in read_lines(folder)
        if reached(line)
    ][::-1]  # fmt: skip
    return ReportPart(name, {"answers": len(rows), "log": folder}, rows)


@exits_cleanly
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m experiments.impact", description=__doc__)
    data = parser.add_mutually_exclusive_group(required=True)
    for kind in ID_COLUMNS:
        text = "its id, or its position in the event log, such as 0:123" if kind == "event" else None
        data.add_argument(f"--{kind}", metavar="ID", help=text)
    data.add_argument("--dataset", metavar="HASH", help="of a dataset version, or the beginning of it")
    report.add_options(parser)
    arguments = parser.parse_args(argv)
    settings, folder = params.load(), report.served_folder(arguments)
    kind = next(kind for kind in (*ID_COLUMNS, "dataset") if getattr(arguments, kind) is not None)
    name = getattr(arguments, kind)
    if kind == "dataset":
        parts = dataset_impact(name, folder, settings)
    else:
        parts = events_impact(kind, name, folder, report.keys_of_users(), settings)
    report.show(f"impact of {kind} {name}", parts, arguments)
    return 0


if __name__ == "__main__":
    sys.exit(main())
