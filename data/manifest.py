"""The manifest of a split: where the cuts lie, what the parts hold, the id under which numbers compare."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pandas as pd

import params
from data.columns import DAY, EVENT_TIME, ITEM, PART, PARTS, USER
from data.fingerprint import json_hash
from data.times import iso, microseconds

TIE_RULE = "events at a cut belong to the later part; events that share a time never see one another"
TARGETS = {
    "window": "at test_start, users who act within window_days after it: their distinct new items of then",
    "next": "before each test event, from what is known strictly before its time: that event's item",
    "catalogue": "items with an event before test_start",
}


@dataclass(frozen=True)
class Cuts:
    """Moments in microseconds: valid starts, test starts, the last event."""

    valid_start: int
    test_start: int
    end: int


def describe(events: pd.DataFrame, cuts: Cuts, window_days: int) -> dict[str, Any]:
    """What the parts hold: counts, shares of cold users and items and of ties, and cases of each target."""
    times = microseconds(events[EVENT_TIME])
    before, test = events[events[PART] != "test"], events[events[PART] == "test"]
    warm = test[USER].isin(set(before[USER]))
    seen = test[ITEM].isin(set(before[ITEM]))
    old_pairs = pd.MultiIndex.from_frame(before[[USER, ITEM]])
    new_pair = ~pd.MultiIndex.from_frame(test[[USER, ITEM]]).isin(old_pairs)
    in_window = times[test.index] < cuts.test_start + window_days * DAY
    window = test[in_window & seen & new_pair]
    window_users = window[USER].drop_duplicates()
    shares_time = events.duplicated([USER, EVENT_TIME], keep=False)
    return {
        "counts": {part: _counts(events[events[PART] == part]) for part in PARTS},
        "cold_users": _share(~test.drop_duplicates(USER)[USER].isin(set(before[USER]))),
        "cold_items": _share(~test.drop_duplicates(ITEM)[ITEM].isin(set(before[ITEM]))),
        "cold_user_events": _share(~warm),
        "cold_item_events": _share(~seen),
        "ties": _share(shares_time[test.index]),
        "cases": {
            "window": len(window_users),
            "window_warm": _share(window_users.isin(set(before[USER]))),
            "next": int(seen.sum()),
        },
    }


def manifest_of(events: pd.DataFrame, cuts: Cuts, settings: params.Split, ingested: dict[str, Any]) -> dict[str, Any]:
    """The split's manifest; numbers compare only under one `split_id`."""
    identity = {
        "dataset_hash": ingested["dataset_hash"],
        "valid_start_us": cuts.valid_start,
        "test_start_us": cuts.test_start,
        "window_days": settings.window_days,
        "rules": ingested["rules"],
        "tie_rule": TIE_RULE,
        "targets": TARGETS,
    }
    return {
        "dataset": ingested["dataset"],
        "split_id": json_hash(identity),
        **identity,
        "end_us": cuts.end,
        "valid_start": iso(cuts.valid_start),
        "test_start": iso(cuts.test_start),
        "end": iso(cuts.end),
        **describe(events, cuts, settings.window_days),
        "without_consent": ingested["counts"]["without_consent"],
        "repeats_dropped": ingested["counts"]["repeats_dropped"],
    }


def _counts(events: pd.DataFrame) -> dict[str, int]:
    return {"events": len(events), "users": int(events[USER].nunique()), "items": int(events[ITEM].nunique())}


def _share(mask: pd.Series) -> float | None:
    """Share of true values, 4 decimals; None of nothing."""
    return round(float(mask.mean()), 4) if len(mask) else None
