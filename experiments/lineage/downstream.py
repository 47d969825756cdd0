"""From data forward: the runs and versions that were fitted on it, where they live, and the answers that it reached."""

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
from data.products import read_table
from data.time_columns import microseconds
from data.times import from_iso, to_iso
from experiments.lineage import ancestry
from experiments.lineage.report import Part
from experiments.lineage.served_log import LineageError, ServedLines
from features.featurize import CUTS, FULL, moment_of
from serving import settings as environment
from serving.deployment import model_versions, registry
from serving.deployment.model_versions import client
from serving.deployment.registry import RegistryError, Version
from serving.edge import wire
from serving.edge.pseudonym import pseudonym
from serving.torchserve.client import ServerError, TorchServe

PAGE = 1000  # runs of one question to MLflow


@dataclass(frozen=True)
class Origin:
    """What of which data is asked about.

    Attributes:
        dataset: the model's name.
        hash: of the data set version that holds it.
        since_us: from when on a fit could read it, in microseconds; None: any fit on that version did.
    """

    dataset: str
    hash: str
    since_us: int | None = None

    def reaches(self, until_us: int | None) -> bool | None:
        """Whether a fit on what was known at a moment read it; None where the moment is not known."""
        if self.since_us is None:
            return True
        return None if until_us is None else self.since_us <= until_us


def runs_part(origin: Origin) -> Part:
    """Runs that were fitted on it, newest first."""
    rows = [
        {"run": run.info.run_id, "name": run.info.run_name, "stage": run.data.tags.get("stage"),
         "status": run.info.status, "commit": run.data.tags.get("commit", "")[:12]}
        for run in _all_runs(origin.dataset, f"tags.dataset_hash = '{origin.hash}'")
        if origin.reaches(_cut_us(origin, run.data.tags)) is not False
    ]  # fmt: skip
    return Part("runs", {"fitted on it": len(rows), "looked in": ancestry.registry_place()}, rows)


def versions_part(origin: Origin, holds: Callable[[Version], bool] = lambda version: True) -> Part:
    """Versions that were fitted on it, and which of them live.

    Args:
        holds: a further condition, asked of a version that the moment lets in.
    """
    roles, why_not = _roles(origin.dataset)
    rows, others, faults = [], 0, []
    for version in registry.registered(origin.dataset):
        try:
            manifest = ancestry.manifest_of(version)
            if manifest["dataset_hash"] != origin.hash:
                others += 1
            elif origin.reaches(manifest.get("fit_until_us")) is not False and holds(version):
                rows.append(_row(version, manifest, roles))
        except RegistryError as error:
            faults.append(str(error))
    note = "; ".join([*faults, *([why_not] if why_not else [])])
    live = [f"{row['version']} ({row['live']})" for row in rows if row["live"] != "-"]
    facts = {"fitted on it": len(rows), "live of them": live, "of other data set versions": others}
    return Part("versions", facts, rows, note)


def answers_part(folder: Path, name: str, reached: Callable[[Mapping[str, Any]], bool]) -> Part:
    """Answers of the served log that it reached, newest first.

    Args:
        name: how they were reached, as the part is to be called.
    """
    log = ServedLines(folder)
    rows = [
        {"request_id": line["request_id"], "time": line["time"], "version": line["model_version"], "rung": line["rung"]}
        for line in log.each()
        if reached(line)
    ][::-1]
    return Part(name, {"answers": len(rows), "log": log.described()}, rows)


def hashes(dataset: str) -> set[str]:
    """The data set versions that registered versions and runs of a data set name."""
    tags = [entry.tags for entry in client().search_model_versions(f"name='{dataset}'")]
    return {one["dataset_hash"] for one in tags if "dataset_hash" in one} | {
        run.data.tags["dataset_hash"] for run in _all_runs(dataset, "") if "dataset_hash" in run.data.tags
    }


def _row(version: Version, manifest: Mapping[str, Any], roles: Mapping[str, str]) -> dict[str, Any]:
    return {
        "version": version.version,
        "model": manifest.get("label", manifest["model"]),
        "refit of": manifest.get("refit_of", {}).get("version"),
        "aliases": ancestry.aliases_of(version),
        "fitted until": manifest.get("fit_until"),
        "live": roles.get(version.version, "-"),
        "run": manifest.get("run_id"),
    }


def _roles(dataset: str) -> tuple[dict[str, str], str]:
    """(registry version -> default or loaded, "") as TorchServe says, or ({}, why it cannot be asked)."""
    settings = environment.load()
    try:
        with TorchServe.from_settings(settings) as server:
            live = server.describe(dataset)
    except ServerError:
        return {}, f"TorchServe does not answer at {settings.management_url}, so what is live is not known"
    return {name.partition(".")[0]: "default" if one.default else "loaded" for name, one in live.items()}, ""


def _all_runs(dataset: str, query: str) -> Iterator[Any]:
    mlflow = client()
    experiment = mlflow.get_experiment_by_name(dataset)
    token: str | None = None
    while experiment is not None:
        found = mlflow.search_runs([experiment.experiment_id], query, max_results=PAGE, page_token=token)
        yield from found
        token = found.token
        if not token:
            return


def _cut_us(origin: Origin, tags: Mapping[str, str]) -> int | None:
    """Until when a run read events; None where its split is not the one that lies here."""
    path = SPLIT / "manifest.json"
    split = json.loads(path.read_text()) if path.is_file() else {}
    if split.get("split_id") != tags.get("split_id") or tags.get("cut") not in (*CUTS, FULL):
        return None
    return moment_of(tags["cut"], split)


def known_from(event_us: int, known_us: int) -> int:
    """From when on a fit may read an event: it had happened before, and was known."""
    return max(event_us + 1, known_us)


EVENTS = SPLIT / "events.parquet"
COLUMN = {"event": EVENT_ID, "user": USER, "item": ITEM}


def of_events(kind: str, name: str, folder: Path, secret: bytes | None, chosen: params.Params) -> list[Part]:
    """What an event, or those of a user or an item, reached.

    Args:
        kind: event, user or item.

    Raises:
        LineageError: there is none here.
    """
    ancestry.registry_place()
    found, why_none = _events(kind, name)
    if why_none:
        return [
            Part(kind, {"id": name, "events": 0}, note=why_none),
            _answers_alone(kind, name, folder, secret, why_none),
        ]
    origin = Origin(chosen.dataset, ancestry.local_dataset() or "", _since(found))
    holds = (lambda version: name in _vocabulary(version)) if kind == "item" else (lambda version: True)
    return [
        _about(kind, name, found, origin),
        runs_part(origin),
        versions_part(origin, holds),
        _answers(kind, name, str(found[USER].iloc[0]), origin.since_us or 0, folder, secret),
    ]


def _events(kind: str, name: str) -> tuple[pd.DataFrame, str]:
    """(the events, "") or (none, why there are none)."""
    events = read_table(EVENTS, "dvc pull")
    found = events[events[COLUMN[kind]] == name]
    if len(found):
        return found, ""
    ingested = INGESTED / "events.parquet"
    if ingested.is_file() and (pd.read_parquet(ingested, columns=[COLUMN[kind]])[COLUMN[kind]] == name).any():
        why = "without consent to training nothing was fitted on it"
        return found, f"{kind} {name!r} is in {ingested} and not in {EVENTS}: {why}"
    version = ancestry.local_dataset()
    return found, f"there is no {kind} {name!r} among {len(events):,} events of version {version} in {EVENTS}"


def _answers_alone(kind: str, name: str, folder: Path, secret: bytes | None, why_none: str) -> Part:
    """The answers to a user of whom, or that list an item of which, no events are here.

    Raises:
        LineageError: there are none either.
    """
    told = Part("answers") if kind == "event" else _answers(kind, name, name, 0, folder, secret)
    if not told.rows:
        raise LineageError(why_none)
    return told


def _since(events: pd.DataFrame) -> int:
    """From when on a fit may read any of these events."""
    times, known = microseconds(events[EVENT_TIME]), microseconds(events[KNOWN_TIME])
    return int(min(map(known_from, np.asarray(times), np.asarray(known))))


def _about(kind: str, name: str, events: pd.DataFrame, origin: Origin) -> Part:
    times = microseconds(events[EVENT_TIME])
    facts: dict[str, Any] = {"id": name, "data set version": origin.hash}
    if kind == "event":
        one = events.iloc[0]
        facts |= {"user": one[USER], "item": one[ITEM], "time": to_iso(int(times.iloc[0])), "part": one[PART]}
    else:
        facts |= {"events": len(events), "first": to_iso(int(times.min())), "last": to_iso(int(times.max()))}
        facts |= {"parts": {part: int(count) for part, count in events[PART].value_counts().items()}}
    return Part(kind, facts)


def _answers(kind: str, name: str, user: str, since_us: int, folder: Path, secret: bytes | None) -> Part:
    if kind == "item":
        return answers_part(folder, "answers that list it", lambda line: name in line["items"])
    if secret is None:
        return Part("answers", note="the edge's secret is not here, so nobody's answers can be told in its log")
    whose = pseudonym(secret, user)
    if kind == "user":
        return answers_part(folder, "answers to this user", lambda line: line["user"] == whose)
    return answers_part(folder, "answers that could read it", _could_read(whose, since_us))


def _could_read(whose: str, since_us: int) -> Callable[[Mapping[str, Any]], bool]:
    """Whether an answer was computed for this user, from the stored history, once the event was known."""

    def reached(line: Mapping[str, Any]) -> bool:
        computed = line["user"] == whose and line.get("cache") != "none"
        return computed and line.get("basis", wire.STORED) == wire.STORED and from_iso(line["time"]) >= since_us

    return reached


def _vocabulary(version: Version) -> set[str]:
    name = f"{version.dataset} {version.version}"
    return set(json.loads(model_versions.read(f"{version.source}/vocabulary.json", name)))
