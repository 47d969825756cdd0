"""Split events into train, valid and test at two moments, the same for all users (docs/evaluation.md)."""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from datetime import datetime
from fractions import Fraction
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from config import params
from config.command import exits_cleanly
from config.paths import INGESTED, SPLIT
from data.columns import DAY, EVENT_TIME, ITEM, PART, PARTS, USER
from data.files import DataError, json_hash, read_json, replace_folder, write_json
from data.tables import microseconds, read_table, write_table
from data.times import from_datetime, to_iso

MIN_EVENTS = 10
TIE_RULE = "events at a cut belong to the later part; events that share a time never see one another"
# `split_id` hashes these texts, with the names that the targets had at first, so that a result keeps its id.
HASHED_TARGETS = {
    "window": "at test_start, users who act within window_days after it: their distinct new items of then",
    "next": "before each test event, from what is known strictly before its time: that event's item",
    "catalogue": "items with an event before test_start",
}


@dataclass(frozen=True)
class SplitCuts:
    """Times in microseconds: where valid starts, where test starts, the last event."""

    valid_start: int
    test_start: int
    end: int


def temporal_split(events: pd.DataFrame, settings: params.Split) -> tuple[pd.DataFrame, SplitCuts]:
    """Add the column `part` by an event's time alone: train, valid from `valid_start`, test from `test_start` on.

    Cuts at quantiles move if a part would be empty. Raises DataError if there are too few events, users, items or
    distinct times, or configured dates leave a part empty.
    """
    _require_enough(events)
    times = microseconds(events[EVENT_TIME])
    ordered = np.sort(times)
    valid, test = (
        _cut(ordered, settings.valid_start, settings.valid_quantile),
        _cut(ordered, settings.test_start, settings.test_quantile),
    )
    if settings.valid_start is None and settings.test_start is None:
        valid, test = _fill_parts(ordered, valid, test)
    cuts = SplitCuts(valid, test, int(ordered[-1]))
    _require_filled_parts(ordered, cuts)
    part = np.searchsorted([cuts.valid_start, cuts.test_start], times, side="right")
    return events.assign(**{PART: np.array(PARTS, dtype=object)[part]}), cuts


def _cut(times: np.ndarray, date: datetime | None, quantile: float) -> int:
    """The configured date, or else the quantile by linear interpolation, rounded up to a whole microsecond.

    Computed in exact fractions: a float slightly above an event's time would move that event into the earlier part.
    """
    if date is not None:
        return from_datetime(date)
    position = Fraction(str(quantile)) * (len(times) - 1)
    low = position.numerator // position.denominator
    below, above = int(times[low]), int(times[min(low + 1, len(times) - 1)])
    return ceil(below + (position - low) * (above - below))


def _fill_parts(times: np.ndarray, valid: int, test: int) -> tuple[int, int]:
    """The cuts, moved to the nearest times that leave no part empty, if most events share one time."""
    distinct = np.unique(times)
    first_of_valid, first_of_test = np.searchsorted(distinct, [valid, test], side="left")
    if len(distinct) < len(PARTS) or 0 < first_of_valid < first_of_test < len(distinct):
        return valid, test
    moved_valid = int(np.clip(first_of_valid, 1, len(distinct) - 2))
    moved_test = max(int(min(first_of_test, len(distinct) - 1)), moved_valid + 1)
    return int(distinct[moved_valid]), int(distinct[moved_test])


def _require_enough(events: pd.DataFrame) -> None:
    if len(events) < MIN_EVENTS:
        raise DataError(f"split: {len(events)} events are too few to split; at least {MIN_EVENTS} are needed")
    for column, kind, needed in ((USER, "user", 2), (ITEM, "item", 2), (EVENT_TIME, "time", len(PARTS))):
        if (found := events[column].nunique()) < needed:
            value = events[column].iloc[0]
            text = value.isoformat() if isinstance(value, pd.Timestamp) else repr(value)
            number = f"one {kind}, {text}" if found == 1 else f"{found} different {kind}s"
            raise DataError(f"split: all {len(events)} events have {number}; at least {needed} are needed to split")


def _require_filled_parts(times: np.ndarray, cuts: SplitCuts) -> None:
    valid, test = to_iso(cuts.valid_start), to_iso(cuts.test_start)
    if cuts.valid_start >= cuts.test_start:
        raise DataError(f"split: the valid part is empty: valid_start {valid} is not before test_start {test}")
    bounds = np.searchsorted(times, [cuts.valid_start, cuts.test_start], side="left")
    for part, size in zip(PARTS, np.diff([0, *bounds, len(times)]), strict=True):
        if size == 0:
            raise DataError(
                f"split: the {part} part is empty: events lie between {to_iso(int(times[0]))} and {to_iso(cuts.end)}, "
                f"valid_start is {valid}, test_start {test}"
            )


def build_manifest(
    events: pd.DataFrame, cuts: SplitCuts, settings: params.Split, ingested: dict[str, Any]
) -> dict[str, Any]:
    """The split's manifest. Metrics are comparable only under the same `split_id`."""
    identity = {
        "dataset_hash": ingested["dataset_hash"],
        "valid_start_us": cuts.valid_start,
        "test_start_us": cuts.test_start,
        "rules": ingested["rules"],
        "tie_rule": TIE_RULE,
    }
    hashed = identity | {"window_days": settings.horizon_days, "targets": HASHED_TARGETS}
    return {
        "dataset": ingested["dataset"],
        "numeric_ids": ingested["numeric_ids"],
        "split_id": json_hash(hashed),
        **identity,
        "horizon_days": settings.horizon_days,
        "end_us": cuts.end,
        "valid_start": to_iso(cuts.valid_start),
        "test_start": to_iso(cuts.test_start),
        "end": to_iso(cuts.end),
        **describe(events, cuts, settings.horizon_days),
        "without_consent": ingested["counts"]["without_consent"],
        "repeats_dropped": ingested["counts"]["repeats_dropped"],
    }


def describe(events: pd.DataFrame, cuts: SplitCuts, horizon_days: int) -> dict[str, Any]:
    """Statistics of the parts: counts, shares of cold users and items and of ties, evaluation cases per target."""
    before, test = events[events[PART] != "test"], events[events[PART] == "test"]
    known_users, known_items = set(before[USER]), set(before[ITEM])
    is_known_item = test[ITEM].isin(known_items)
    known_pairs = pd.MultiIndex.from_frame(before[[USER, ITEM]])
    is_new_pair = ~pd.MultiIndex.from_frame(test[[USER, ITEM]]).isin(known_pairs)
    in_horizon = microseconds(test[EVENT_TIME]) < cuts.test_start + horizon_days * DAY
    horizon_users = test[in_horizon & is_known_item & is_new_pair][USER].drop_duplicates()
    tied = events.duplicated([USER, EVENT_TIME], keep=False)
    return {
        "counts": {part: _counts(events[events[PART] == part]) for part in PARTS},
        "cold_users": _share(~test.drop_duplicates(USER)[USER].isin(known_users)),
        "cold_items": _share(~test.drop_duplicates(ITEM)[ITEM].isin(known_items)),
        "cold_user_events": _share(~test[USER].isin(known_users)),
        "cold_item_events": _share(~is_known_item),
        "ties": _share(tied[test.index]),
        "cases": {
            "horizon": len(horizon_users),
            "horizon_warm": _share(horizon_users.isin(known_users)),
            "next_item": int(is_known_item.sum()),
        },
    }


def _counts(events: pd.DataFrame) -> dict[str, int]:
    return {"events": len(events), "users": int(events[USER].nunique()), "items": int(events[ITEM].nunique())}


def _share(mask: pd.Series) -> float | None:
    """The share of true values, rounded to 4 decimals; None if the mask is empty."""
    return round(float(mask.mean()), 4) if len(mask) else None


@exits_cleanly
def main(argv: list[str] | None = None) -> int:
    """Run the stage from the command line."""
    parser = argparse.ArgumentParser(prog="python -m data.split", description=__doc__)
    parser.add_argument("--params", default="params.yaml", help="settings (default: %(default)s)")
    parser.add_argument("--ingested", type=Path, default=INGESTED, help="output of data.ingest (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=SPLIT, help="output folder (default: %(default)s)")
    arguments = parser.parse_args(argv)
    settings = params.load(arguments.params).split
    command = "python -m data.ingest"
    ingested = read_json(arguments.ingested / "manifest.json", command)
    events, cuts = temporal_split(read_table(arguments.ingested / "events.parquet", command), settings)
    manifest = build_manifest(events, cuts, settings, ingested)
    with replace_folder(arguments.out) as partial:
        write_table(partial / "events.parquet", events)
        write_json(partial / "manifest.json", manifest)
    sizes = ", ".join(f"{part} {manifest['counts'][part]['events']:,}" for part in PARTS)
    print(
        f"split: {sizes} events; valid from {manifest['valid_start']}, test from {manifest['test_start']}; "
        f"split_id {manifest['split_id']} -> {arguments.out}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
