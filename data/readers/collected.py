"""Read the events of the collector from their daily partitions (data/collect/partitions.py)."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from data.collect.event_log import Position
from data.collect.partitions import (
    ANONYMOUS,
    CONTEXT,
    DAY_FOLDER,
    EVENTS,
    ITEMS,
    PEOPLE,
    PURPOSES,
    TRAITS,
    Part,
    read_part,
    read_parts,
    written_until,
)
from data.collect.schema import MAX_TRAITS
from data.columns import (
    DESCRIPTION,
    EVENT_COLUMNS,
    EVENT_ID,
    EVENT_TIME,
    EVENT_TYPE,
    GENRES,
    ITEM,
    KNOWN_TIME,
    RELEASE_TIME,
    TITLE,
    TRAINING_CONSENT,
    USER,
)
from data.consent import MODEL_TRAINING
from data.files import DataError
from data.readers.table import RawTable, number_rows
from data.times import from_datetime, to_iso

NAME = "events"  # in `ingest.source`
IMPRESSION, IDENTIFY = "impression", "identify"
OF_ITEMS = [TITLE, GENRES, DESCRIPTION, RELEASE_TIME]
PEOPLE_COLUMNS = [EVENT_ID, EVENT_TYPE, USER, ANONYMOUS, EVENT_TIME, KNOWN_TIME, TRAITS, PURPOSES]


def is_collected(folder: Path) -> bool:
    """Whether a folder holds daily partitions."""
    return any(folder.glob(f"{DAY_FOLDER}*/part-*.json"))


def read_collected(folder: Path, until: datetime | None, context: Sequence[str]) -> RawTable:
    """The events about items under our names, what `identify` said about users, and what `item` said about items.

    The user is the account, or the anonymous id where there is none. Impressions are no interactions: they are left out
    and counted. `consent_training` says for each event whether it may serve training.

    Args:
        until: leave out what became known at this time or later; None: nothing.

    Raises:
        DataError: the folder holds no such event, a partition is damaged, or they end before `until`.
    """
    parts = read_parts(folder)
    if not parts:
        raise DataError(f"{folder} holds no collected events; `make snapshot` writes them")
    written_us = written_until(parts)
    until_us = written_us if until is None else from_datetime(until)
    if until_us > written_us:
        raise DataError(
            f"ingest.until is {to_iso(until_us)}, but {folder} ends at {to_iso(written_us)}; run `make snapshot`"
        )
    parts = [part for part in parts if part.known_date <= to_iso(until_us - 1)[:10]]
    files = [part for part in parts if EVENTS in part.files]
    if not files:
        raise DataError(f"{folder} holds no event about an item that became known before {to_iso(until_us)}")
    names = [*EVENT_COLUMNS, ANONYMOUS, PURPOSES, *(name for name in context if name in CONTEXT)]
    rows = number_rows(_read(folder, files, EVENTS, names))
    found = {
        "files": [str(part.path(folder, EVENTS)) for part in files],
        "format": "collected events",
        "rows": len(rows),
        "rows_per_file": [part.files[EVENTS].rows for part in files],
        "known_before": to_iso(until_us),
        "positions": _positions(parts),
    }
    before = pd.Timestamp(until_us, unit="us", tz="UTC")
    rows = rows[rows[KNOWN_TIME] < before]
    # The collector takes events that are up to 5 minutes ahead of its clock.
    rows = rows.assign(**{KNOWN_TIME: rows[[EVENT_TIME, KNOWN_TIME]].max(axis=1)})
    is_impression = rows[EVENT_TYPE] == IMPRESSION
    found["impressions"] = int(is_impression.sum())
    people = _read(folder, parts, PEOPLE, PEOPLE_COLUMNS)
    said = people[(people[EVENT_TYPE] == IDENTIFY) & people[TRAINING_CONSENT] & (people[KNOWN_TIME] < before)]
    names = [EVENT_ID, ITEM, EVENT_TIME, KNOWN_TIME, *OF_ITEMS, TRAITS]
    items = pa.concat_tables([read_part(folder, part, ITEMS, names) for part in parts]).to_pandas()
    return RawTable(
        folder,
        rows[~is_impression],
        found=found,
        users=_latest_traits(said, USER),
        items=_latest_traits(items[items[KNOWN_TIME] < before], ITEM, OF_ITEMS),
    )


def _read(folder: Path, parts: Sequence[Part], table: str, columns: list[str]) -> pd.DataFrame:
    """A table of some parts with its user and its consent in one column each."""
    whole = pa.concat_tables([read_part(folder, part, table, columns) for part in parts])
    user = pc.coalesce(whole[USER], whole[ANONYMOUS])
    whole = whole.set_column(whole.column_names.index(USER), USER, user)
    whole = whole.append_column(TRAINING_CONSENT, pc.match_substring(whole[PURPOSES], MODEL_TRAINING))
    return whole.drop_columns([ANONYMOUS, PURPOSES]).to_pandas()


def _positions(parts: Sequence[Part]) -> list[str]:
    """For each partition of the event log, the first and the last position that the parts hold: `0:1 to 0:123`."""
    ranges: dict[int, tuple[int, int]] = {}
    for part in parts:
        for partition, held in part.positions.items():
            first, _ = ranges.get(int(partition), (held.first, held.last))
            ranges[int(partition)] = first, held.last
    return [
        f"{Position(number, first)} to {Position(number, last)}" for number, (first, last) in sorted(ranges.items())
    ]


def _latest_traits(said: pd.DataFrame, key: str, columns: Sequence[str] = ()) -> pd.DataFrame | None:
    """One row per user or item: of each trait the value with the latest event time; None without traits.

    Of more than MAX_TRAITS names, the most frequent are kept: senders choose the names. `columns` are traits too, kept
    always.
    """
    said = said.sort_values([EVENT_TIME, KNOWN_TIME, EVENT_ID])
    known: dict[str, dict[str, Any]] = {}
    for own_id, text, *values in zip(said[key], said[TRAITS], *(said[name] for name in columns), strict=True):
        given = {name: value for name, value in zip(columns, values, strict=True) if not pd.isna(value)}
        known.setdefault(own_id, {}).update(json.loads(text) | given)
    counts = Counter(name for traits in known.values() for name in traits if name not in (key, TRAINING_CONSENT))
    frequent = sorted((name for name in counts if name not in columns), key=lambda name: (-counts[name], name))
    names = sorted([*frequent[:MAX_TRAITS], *(name for name in columns if name in counts)])
    if not names:
        return None
    table = {name: pd.Series([traits.get(name) for traits in known.values()], dtype=object) for name in names}
    return number_rows(pd.DataFrame({key: pd.Series(list(known), dtype=object), **table}))
