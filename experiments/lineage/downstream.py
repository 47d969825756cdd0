"""Downstream of data: the runs and versions that were fitted on it, where they serve, and the answers that it reached."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from config import params
from config.paths import INGESTED, SPLIT
from data.columns import EVENT_ID, EVENT_TIME, ITEM, KNOWN_TIME, PART, USER
from data.tables import microseconds, read_table
from data.times import from_iso, to_iso
from experiments.lineage import upstream
from experiments.lineage.inputs import NO_SECRET
from experiments.lineage.report import ReportPart
from experiments.lineage.served_log import NOT_COMPUTED, Line, LineageError, ServedLines
from features.feature_files import CUTS, FULL, cut_time
from serving import settings as environment
from serving.deployment import registry
from serving.deployment.registry import RegisteredVersion, RegistryError, registry_client
from serving.edge.request_log import FROM_STORE, pseudonym
from serving.torchserve.client import ServerError, TorchServe

RUNS_PER_QUERY = 1000
MIN_HASH_LENGTH = 6
EVENTS = SPLIT / "events.parquet"
ID_COLUMNS = {"event": EVENT_ID, "user": USER, "item": ITEM}


@dataclass(frozen=True)
class Origin:
    """The data whose impact is asked about.

    Attributes:
        dataset: the name of the dataset and its model.
        hash: of the dataset version that holds the data.
        since_us: from when on a fit could read it, in microseconds; None if any fit on the version did.
    """

    dataset: str
    hash: str
    since_us: int | None = None

    def may_reach(self, until_us: int | None) -> bool:
        """Whether a fit on what was known at a time may have read the data; True if the time is unknown."""
        return self.since_us is None or until_us is None or self.since_us <= until_us


# --- the impact of a dataset version, an event, a user or an item


def dataset_impact(hash_prefix: str, folder: Path, settings: params.Params) -> list[ReportPart]:
    """The impact of a dataset version.

    Args:
        hash_prefix: its hash, or the beginning of it.
        folder: of the served log.

    Raises:
        LineageError: nothing here knows such a version.
    """
    place = upstream.registry_place()
    full_hash, here = _find_hash(hash_prefix, settings), upstream.local_dataset_hash()
    origin = Origin(settings.dataset, full_hash)
    parts = [
        runs_part(origin),
        versions_part(origin),
        _answers_part(folder, "answers by versions fitted on it", lambda line: line["dataset_version"] == full_hash),
    ]
    if not any(part.rows for part in parts) and full_hash != here:
        raise LineageError(
            f"nothing is known of dataset version {hash_prefix!r}; searched {SPLIT}, {place} and {folder}"
        )
    facts = {"name": settings.dataset, "hash": full_hash, upstream.HERE: full_hash == here}
    return [ReportPart("dataset version", facts), *parts]


def _find_hash(prefix: str, settings: params.Params) -> str:
    if len(prefix) < MIN_HASH_LENGTH:
        raise LineageError(f"--dataset is {prefix!r}; expected a hash, or its first {MIN_HASH_LENGTH} digits or more")
    versions = (entry.tags for entry in registry_client().search_model_versions(f"name='{settings.dataset}'"))
    runs = (run.data.tags for run in _all_runs(settings.dataset, ""))
    known = {tags["dataset_hash"] for group in (versions, runs) for tags in group if "dataset_hash" in tags}
    matching = sorted(one for one in known | {upstream.local_dataset_hash() or ""} if one.startswith(prefix))
    if len(matching) > 1:
        raise LineageError(f"--dataset {prefix!r} matches {len(matching)} dataset versions: {', '.join(matching)}")
    return matching[0] if matching else prefix


def events_impact(
    kind: str, name: str, folder: Path, secret: bytes | None, settings: params.Params
) -> list[ReportPart]:
    """The impact of an event, or of all events of a user or an item.

    Args:
        kind: event, user or item.
        name: its id.
        folder: of the served log.

    Raises:
        LineageError: neither an event nor an answer of it is here.
    """
    upstream.registry_place()
    events = read_table(EVENTS, "dvc pull")
    found = events[events[ID_COLUMNS[kind]] == name]
    if not len(found):
        reason = _why_no_events(kind, name, len(events))
        answers = _answers_to(kind, name, name, 0, folder, secret) if kind != "event" else ReportPart("answers")
        if not answers.rows:
            raise LineageError(reason)
        return [ReportPart(kind, {"id": name, "events": 0}, note=reason), answers]
    times, known = microseconds(found[EVENT_TIME]), microseconds(found[KNOWN_TIME])
    since_us = int(np.minimum.reduce(np.maximum(np.asarray(times) + 1, np.asarray(known))))
    origin = Origin(settings.dataset, upstream.local_dataset_hash() or "", since_us)
    holds = (lambda version: name in _vocabulary(version)) if kind == "item" else (lambda version: True)
    return [
        _data_part(kind, name, found, origin),
        runs_part(origin),
        versions_part(origin, holds),
        _answers_to(kind, name, str(found[USER].iloc[0]), since_us, folder, secret),
    ]


def _why_no_events(kind: str, name: str, num_events: int) -> str:
    ingested, column = INGESTED / "events.parquet", ID_COLUMNS[kind]
    if ingested.is_file() and (pd.read_parquet(ingested, columns=[column])[column] == name).any():
        return (
            f"{kind} {name!r} is in {ingested} but not in {EVENTS}: without consent to training nothing is fitted on it"
        )
    version = upstream.local_dataset_hash()
    return f"there is no {kind} {name!r} among the {num_events:,} events of version {version} in {EVENTS}"


def _data_part(kind: str, name: str, events: pd.DataFrame, origin: Origin) -> ReportPart:
    times = microseconds(events[EVENT_TIME])
    facts: dict[str, Any] = {"id": name, "dataset version": origin.hash}
    if kind == "event":
        event = events.iloc[0]
        facts |= {"user": event[USER], "item": event[ITEM], "time": to_iso(int(times[0])), "part": event[PART]}
    else:
        facts |= {"events": len(events), "first": to_iso(int(times.min())), "last": to_iso(int(times.max()))}
        facts |= {"parts": {part: int(count) for part, count in events[PART].value_counts().items()}}
    return ReportPart(kind, facts)


# --- runs, versions, answers


def runs_part(origin: Origin) -> ReportPart:
    """Runs that were fitted on the data, newest first."""
    rows = [
        {"run": run.info.run_id, "name": run.info.run_name, "stage": run.data.tags.get("stage"),
         "status": run.info.status, "commit": run.data.tags.get("commit", "")[:12]}
        for run in _all_runs(origin.dataset, f"tags.dataset_hash = '{origin.hash}'")
        if origin.may_reach(_fit_until(run.data.tags))
    ]  # fmt: skip
    return ReportPart("runs", {"fitted on it": len(rows), "searched": upstream.registry_place()}, rows)


def _all_runs(dataset: str, query: str) -> Iterator[Any]:
    mlflow = registry_client()
    experiment = mlflow.get_experiment_by_name(dataset)
    token: str | None = None
    while experiment is not None:
        runs = mlflow.search_runs([experiment.experiment_id], query, max_results=RUNS_PER_QUERY, page_token=token)
        yield from runs
        token = runs.token
        if not token:
            return


def _fit_until(tags: Mapping[str, str]) -> int | None:
    """Until when a run read events; None if its split is not the one here."""
    path = SPLIT / "manifest.json"
    split = json.loads(path.read_text()) if path.is_file() else {}
    if split.get("split_id") != tags.get("split_id") or tags.get("cut") not in (*CUTS, FULL):
        return None
    return cut_time(tags["cut"], split)


def versions_part(origin: Origin, holds: Callable[[RegisteredVersion], bool] = lambda version: True) -> ReportPart:
    """Versions that were fitted on the data, and which of them are live.

    Args:
        holds: a further condition on a version.
    """
    live, live_note = _live_versions(origin.dataset)
    rows, other_versions, notes = [], 0, []
    for version in registry.list_versions(origin.dataset):
        try:
            manifest = upstream.read_manifest(version)
            if manifest["dataset_hash"] != origin.hash:
                other_versions += 1
            elif origin.may_reach(manifest.get("fit_until_us")) and holds(version):
                rows.append({
                    "version": version.version,
                    "model": manifest.get("label", manifest["model"]),
                    "refit of": manifest.get("refit_of", {}).get("version"),
                    "aliases": upstream.version_aliases(version),
                    "fitted until": manifest.get("fit_until"),
                    "live": live.get(version.version, "-"),
                    "run": manifest.get("run_id"),
                })  # fmt: skip
        except RegistryError as error:
            notes.append(str(error))
    live_rows = [f"{row['version']} ({row['live']})" for row in rows if row["live"] != "-"]
    facts = {"fitted on it": len(rows), "live": live_rows, "fitted on other dataset versions": other_versions}
    return ReportPart("versions", facts, rows, "; ".join([*notes, *([live_note] if live_note else [])]))


def _live_versions(dataset: str) -> tuple[dict[str, str], str]:
    """(registry version -> default or loaded, "") from TorchServe, or ({}, why it cannot be asked)."""
    server_settings = environment.load()
    try:
        with TorchServe.from_settings(server_settings) as server:
            live = server.describe(dataset)
    except ServerError:
        return {}, f"TorchServe does not answer at {server_settings.management_url}, so the live versions are unknown"
    return {name.partition(".")[0]: "default" if one.default else "loaded" for name, one in live.items()}, ""


def _vocabulary(version: RegisteredVersion) -> set[str]:
    return set(json.loads(registry.read_text(version, f"{version.source}/vocabulary.json")))


def _answers_to(kind: str, name: str, user_id: str, since_us: int, folder: Path, secret: bytes | None) -> ReportPart:
    """The answers that list an item, went to a user, or could read an event."""
    if kind == "item":
        return _answers_part(folder, "answers that list it", lambda line: name in line["items"])
    if secret is None:
        return ReportPart("answers", note=f"{NO_SECRET}, so no user can be found in the served log")
    hidden_id = pseudonym(secret, user_id)
    if kind == "user":
        return _answers_part(folder, "answers to this user", lambda line: line["user"] == hidden_id)

    def could_read(line: Line) -> bool:
        """It was computed for the user, from the stored history, after the event was known."""
        computed = line["user"] == hidden_id and line.get("cache") != NOT_COMPUTED
        from_store = line.get("history_source", FROM_STORE) == FROM_STORE
        return computed and from_store and from_iso(line["time"]) >= since_us

    return _answers_part(folder, "answers that could read it", could_read)


def _answers_part(folder: Path, name: str, reached: Callable[[Line], bool]) -> ReportPart:
    """Answers of the served log that the data reached, newest first."""
    log = ServedLines(folder)
    rows = [
        {"request_id": line["request_id"], "time": line["time"], "version": line["model_version"],
         "source": line["source"]}
        for line in log.each()
        if reached(line)
    ][::-1]  # fmt: skip
    return ReportPart(name, {"answers": len(rows), "log": log.describe()}, rows)
