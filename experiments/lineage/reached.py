"""What events reached: one, all of a user or all of an item."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import params
from data.columns import EVENT_ID, EVENT_TIME, ITEM, KNOWN_TIME, PART, USER
from data.instants import from_iso, to_iso
from data.products import INGESTED, SPLIT, read_table
from data.times import microseconds
from experiments.lineage import affected, ancestry
from experiments.lineage.affected import Origin, answers_part, runs_part, versions_part
from experiments.lineage.report import Part
from experiments.lineage.served_lines import LineageError
from serving.edge import wire
from serving.edge.pseudonym import pseudonym
from serving.promotion import versions
from serving.registry import Version

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
    return int(min(map(affected.known_from, np.asarray(times), np.asarray(known))))


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
    return set(json.loads(versions.read(f"{version.source}/vocabulary.json", name)))
