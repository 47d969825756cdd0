"""From an event, a user, an item or a data set version forward to runs, versions, endpoints and answers."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import params
from command import exits_cleanly
from data.columns import EVENT_ID, EVENT_TIME, ITEM, KNOWN_TIME, PART, USER
from data.instants import from_iso, to_iso
from data.products import INGESTED, SPLIT, read_table
from data.times import microseconds
from experiments import affected, lineage, lineage_options
from experiments.affected import Origin, answers_part, runs_part, versions_part
from experiments.lineage_report import Part
from experiments.served_lines import LineageError
from serving import versions
from serving.edge import wire
from serving.edge.pseudonym import pseudonym
from serving.registry import Version

EVENTS = SPLIT / "events.parquet"
COLUMN = {"event": EVENT_ID, "user": USER, "item": ITEM}
SHORTEST_HASH = 6


def of_events(kind: str, name: str, folder: Path, secret: bytes | None, chosen: params.Params) -> list[Part]:
    """What an event, or those of a user or an item, reached.

    Args:
        kind: event, user or item.

    Raises:
        LineageError: there is none here.
    """
    found = _events(kind, name)
    origin = Origin(chosen.dataset, lineage.local_dataset() or "", _since(found))
    lineage.registry_place()
    holds = (lambda version: name in _vocabulary(version)) if kind == "item" else (lambda version: True)
    return [
        _about(kind, name, found, origin),
        runs_part(origin),
        versions_part(origin, holds),
        _answers(kind, name, found, folder, secret),
    ]


def of_dataset(stated: str, folder: Path, chosen: params.Params) -> list[Part]:
    """What a data set version reached.

    Args:
        stated: its hash, or how that begins.

    Raises:
        LineageError: nothing here knows such a version.
    """
    place = lineage.registry_place()
    whole = _whole_hash(stated, chosen)
    origin = Origin(chosen.dataset, whole)
    answers = answers_part(folder, "answers by versions fitted on it", lambda line: line["dataset_version"] == whole)
    parts = [runs_part(origin), versions_part(origin), answers]
    if not any(part.rows for part in parts) and whole != lineage.local_dataset():
        raise LineageError(f"nothing is known of data set version {stated!r}; looked in {SPLIT}, {place} and {folder}")
    here = whole == lineage.local_dataset()
    return [Part("data set version", {"name": chosen.dataset, "hash": whole, lineage.HERE: here}), *parts]


def _events(kind: str, name: str) -> pd.DataFrame:
    events = read_table(EVENTS, "dvc pull")
    found = events[events[COLUMN[kind]] == name]
    if len(found):
        return found
    ingested = INGESTED / "events.parquet"
    if ingested.is_file() and (pd.read_parquet(ingested, columns=[COLUMN[kind]])[COLUMN[kind]] == name).any():
        raise LineageError(
            f"{kind} {name!r} is in {ingested} alone: without consent to training nothing was fitted on it"
        )
    version = lineage.local_dataset()
    raise LineageError(f"there is no {kind} {name!r} among {len(events):,} events of version {version} in {EVENTS}")


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


def _answers(kind: str, name: str, events: pd.DataFrame, folder: Path, secret: bytes | None) -> Part:
    if kind == "item":
        return answers_part(folder, "answers that list it", lambda line: name in line["items"])
    if secret is None:
        return Part("answers", note="the edge's secret is not here, so nobody's answers can be told in its log")
    whose = pseudonym(secret, str(events[USER].iloc[0]))
    if kind == "user":
        return answers_part(folder, "answers to this user", lambda line: line["user"] == whose)
    since = _since(events)
    return answers_part(folder, "answers that could read it", _could_read(whose, since))


def _could_read(whose: str, since_us: int) -> Callable[[Mapping[str, Any]], bool]:
    """Whether an answer was computed for this user, from the stored history, once the event was known."""

    def reached(line: Mapping[str, Any]) -> bool:
        computed = line["user"] == whose and line.get("cache") != "none"
        return computed and line.get("basis", wire.STORED) == wire.STORED and from_iso(line["time"]) >= since_us

    return reached


def _vocabulary(version: Version) -> set[str]:
    name = f"{version.dataset} {version.version}"
    return set(json.loads(versions.read(f"{version.source}/vocabulary.json", name)))


def _whole_hash(stated: str, chosen: params.Params) -> str:
    if len(stated) < SHORTEST_HASH:
        raise LineageError(f"--dataset is {stated!r}; expected a hash, or its first {SHORTEST_HASH} digits or more")
    known = {*affected.hashes(chosen.dataset), lineage.local_dataset() or ""}
    same = sorted(one for one in known if one.startswith(stated))
    if len(same) > 1:
        raise LineageError(f"--dataset {stated!r} is how {len(same)} data set versions begin: {', '.join(same)}")
    return same[0] if same else stated


def options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m experiments.impact", description=__doc__.splitlines()[0])
    asked = parser.add_mutually_exclusive_group(required=True)
    for kind in COLUMN:
        asked.add_argument(f"--{kind}", metavar="ID")
    asked.add_argument("--dataset", metavar="HASH", help="of a data set version, or how it begins")
    lineage_options.add(parser)
    return parser


@exits_cleanly
def main(argv: list[str] | None = None) -> int:
    given = options().parse_args(argv)
    chosen, folder = params.load(given.params), lineage_options.served(given)
    if given.dataset is not None:
        kind, name, parts = "data set version", given.dataset, of_dataset(given.dataset, folder, chosen)
    else:
        kind = next(kind for kind in COLUMN if getattr(given, kind) is not None)
        name = getattr(given, kind)
        parts = of_events(kind, name, folder, lineage_options.secret(folder), chosen)
    lineage_options.show(f"impact of {kind} {name}", parts, given)
    return 0


if __name__ == "__main__":
    sys.exit(main())
