"""Cut everybody's events at the same two moments: train, valid, test (PROTOCOL: one global timeline cut)."""

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
from data.errors import DataError
from data.fingerprint import json_hash
from data.products import read_json, read_table, replacing, write_json, write_table
from data.time_columns import from_datetime, iso, microseconds

TIE_RULE = "events at a cut belong to the later part; events that share a time never see one another"
# What `split_id` was a hash of before the targets got their present names. It keeps that wording, so that results
# measured earlier can still be compared with new ones.
HASHED_TARGETS = {
    "window": "at test_start, users who act within window_days after it: their distinct new items of then",
    "next": "before each test event, from what is known strictly before its time: that event's item",
    "catalogue": "items with an event before test_start",
}
TARGETS = {
    "horizon": "at test_start, users who act within horizon_days after it: their distinct new items of then",
    "next_item": "before each test event, from what is known strictly before its time: that event's item",
    "catalogue": "items with an event before test_start",
}


@dataclass(frozen=True)
class SplitCuts:
    """Moments in microseconds: valid starts, test starts, the last event."""

    valid_start: int
    test_start: int
    end: int


def describe(events: pd.DataFrame, cuts: SplitCuts, horizon_days: int) -> dict[str, Any]:
    """What the parts hold: counts, shares of cold users and items and of ties, and cases of each target."""
    times = microseconds(events[EVENT_TIME])
    before, test = events[events[PART] != "test"], events[events[PART] == "test"]
    warm = test[USER].isin(set(before[USER]))
    seen = test[ITEM].isin(set(before[ITEM]))
    old_pairs = pd.MultiIndex.from_frame(before[[USER, ITEM]])
    new_pair = ~pd.MultiIndex.from_frame(test[[USER, ITEM]]).isin(old_pairs)
    in_window = times[test.index] < cuts.test_start + horizon_days * DAY
    window = test[in_window & seen & new_pair]
    horizon_users = window[USER].drop_duplicates()
    shares_time = events.duplicated([USER, EVENT_TIME], keep=False)
    return {
        "counts": {part: _counts(events[events[PART] == part]) for part in PARTS},
        "cold_users": _share(~test.drop_duplicates(USER)[USER].isin(set(before[USER]))),
        "cold_items": _share(~test.drop_duplicates(ITEM)[ITEM].isin(set(before[ITEM]))),
        "cold_user_events": _share(~warm),
        "cold_item_events": _share(~seen),
        "ties": _share(shares_time[test.index]),
        "cases": {
            "horizon": len(horizon_users),
            "horizon_warm": _share(horizon_users.isin(set(before[USER]))),
            "next_item": int(seen.sum()),
        },
    }


def manifest_of(
    events: pd.DataFrame, cuts: SplitCuts, settings: params.Split, ingested: dict[str, Any]
) -> dict[str, Any]:
    """The split's manifest; numbers compare only under one `split_id`."""
    identity = {
        "dataset_hash": ingested["dataset_hash"],
        "valid_start_us": cuts.valid_start,
        "test_start_us": cuts.test_start,
        "horizon_days": settings.horizon_days,
        "rules": ingested["rules"],
        "tie_rule": TIE_RULE,
        "targets": TARGETS,
    }
    hashed = {"window_days": settings.horizon_days, "targets": HASHED_TARGETS} | {
        name: value for name, value in identity.items() if name not in ("horizon_days", "targets")
    }
    return {
        "dataset": ingested["dataset"],
        "split_id": json_hash(hashed),
        **identity,
        "end_us": cuts.end,
        "valid_start": iso(cuts.valid_start),
        "test_start": iso(cuts.test_start),
        "end": iso(cuts.end),
        **describe(events, cuts, settings.horizon_days),
        "without_consent": ingested["counts"]["without_consent"],
        "repeats_dropped": ingested["counts"]["repeats_dropped"],
    }


def _counts(events: pd.DataFrame) -> dict[str, int]:
    return {"events": len(events), "users": int(events[USER].nunique()), "items": int(events[ITEM].nunique())}


def _share(mask: pd.Series) -> float | None:
    """Share of true values, 4 decimals; None of nothing."""
    return round(float(mask.mean()), 4) if len(mask) else None


FEWEST_EVENTS = 10


def temporal_split(events: pd.DataFrame, settings: params.Split) -> tuple[pd.DataFrame, SplitCuts]:
    """Give each event its part by its time alone.

    Args:
        events: positives with repeats resolved.

    Returns:
        The events with `part` (train before valid_start, test from test_start on, valid between), and the
        cuts.

    Raises:
        DataError: too few events, users or moments, or a part without events.
    """
    _refuse_tiny(events)
    times = np.sort(microseconds(events[EVENT_TIME]).to_numpy())
    cuts = SplitCuts(
        _cut(times, settings.valid_start, settings.valid_quantile),
        _cut(times, settings.test_start, settings.test_quantile),
        int(times[-1]),
    )
    _refuse_empty(times, cuts)
    part = np.searchsorted([cuts.valid_start, cuts.test_start], microseconds(events[EVENT_TIME]), side="right")
    return events.assign(**{PART: np.array(PARTS, dtype=object)[part]}), cuts


def _cut(times: np.ndarray, date: datetime | None, quantile: float) -> int:
    """A date given, else the quantile by linear interpolation, up to the next whole microsecond.

    In exact fractions: a float a hair above an event's time would push that event into the earlier part.
    """
    if date is not None:
        return from_datetime(date)
    position = Fraction(str(quantile)) * (len(times) - 1)
    low = position.numerator // position.denominator
    below, above = int(times[low]), int(times[min(low + 1, len(times) - 1)])
    return ceil(below + (position - low) * (above - below))


def _refuse_tiny(events: pd.DataFrame) -> None:
    if len(events) < FEWEST_EVENTS:
        raise DataError(f"split: {len(events)} events are too few to split; at least {FEWEST_EVENTS} are needed")
    for column, what in ((USER, "user"), (ITEM, "item"), (EVENT_TIME, "moment")):
        if events[column].nunique() < 2:
            raise DataError(
                f"split: all {len(events)} events have one {what}, {_shown(events[column].iloc[0])}; "
                "at least 2 are needed to split"
            )


def _refuse_empty(times: np.ndarray, cuts: SplitCuts) -> None:
    if cuts.valid_start >= cuts.test_start:
        raise DataError(
            f"split: the valid part is empty: valid_start {iso(cuts.valid_start)} is not before "
            f"test_start {iso(cuts.test_start)}"
        )
    marks = np.searchsorted(times, [cuts.valid_start, cuts.test_start], side="left")
    sizes = np.diff([0, *marks, len(times)])
    for part, size in zip(PARTS, sizes, strict=True):
        if size == 0:
            raise DataError(
                f"split: the {part} part is empty: events lie between {iso(int(times[0]))} and "
                f"{iso(cuts.end)}, valid_start is {iso(cuts.valid_start)}, test_start "
                f"{iso(cuts.test_start)}"
            )


def _shown(value: Any) -> str:
    return value.isoformat() if isinstance(value, pd.Timestamp) else repr(value)


@exits_cleanly
def main(argv: list[str] | None = None) -> int:
    """Run the stage from the command line."""
    parser = argparse.ArgumentParser(prog="python -m data.split", description=__doc__)
    parser.add_argument("--params", default="params.yaml", help="settings (default: %(default)s)")
    parser.add_argument("--ingested", type=Path, default=INGESTED, help="folder of data.ingest (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=SPLIT, help="folder of the products (default: %(default)s)")
    arguments = parser.parse_args(argv)
    settings = params.load(arguments.params).split
    made_by = "python -m data.ingest"
    ingested = read_json(arguments.ingested / "manifest.json", made_by)
    events, cuts = temporal_split(read_table(arguments.ingested / "events.parquet", made_by), settings)
    manifest = manifest_of(events, cuts, settings, ingested)
    with replacing(arguments.out) as partial:
        write_table(events, partial / "events.parquet")
        write_json(manifest, partial / "manifest.json")
    sizes = ", ".join(f"{part} {manifest['counts'][part]['events']:,}" for part in PARTS)
    print(
        f"split: {sizes} events; valid from {manifest['valid_start']}, test from {manifest['test_start']}; "
        f"split_id {manifest['split_id']}; see {arguments.out}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
