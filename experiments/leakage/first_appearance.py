"""Items before their first appearance: none is known, counted or recommended before an event of it was known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from data.columns import ITEM, USER
from data.instants import to_iso
from experiments.leakage.cut import Cut
from experiments.leakage.finding import Finding, Outcome, Row
from experiments.leakage.time_order import FEATURIZE_AGAIN

NEVER = np.iinfo(np.int64).max
TREND_CELLS = 2**24  # of one table of trends in memory


def vocabulary(at: Cut) -> Outcome:
    """Every item that a model can name had an event, and was known, before the cut."""
    ids = at.features.vocabulary.ids
    entered = at.entered.reindex(ids).to_numpy()
    late = np.flatnonzero(~(entered <= at.start_us))  # NaN, an item without events, is late too
    examples = [
        {ITEM: ids[row], "first known": "never" if np.isnan(entered[row]) else to_iso(entered[row])}
        for row in late[: at.settings.audit.examples]
    ]
    found = Finding(
        f"the vocabulary holds items of after the cut, {to_iso(at.start_us)}", len(late), examples,
        "A model has a row for what did not exist: it can recommend it, and the ranking is of another catalogue.",
        FEATURIZE_AGAIN,
    )  # fmt: skip
    return Outcome(len(ids), "items", [found] if len(late) else [])


def trends(at: Cut) -> Outcome:
    """No trend counts an item at the moment before its first event is known."""
    vocabulary, channels = at.features.vocabulary, at.features.description["channels"]
    entered = at.entered.reindex(vocabulary.ids).dropna().astype(np.int64)
    count = min(len(entered), at.settings.audit.first_items)
    drawn = entered.iloc[np.random.default_rng(at.settings.seed).choice(len(entered), count, replace=False)]
    drawn = drawn.sort_values(kind="stable") - 1
    examples: list[Row] = []
    early = 0
    log, size = at.features.trend_log(), max(1, TREND_CELLS // (len(vocabulary) * len(channels)))
    for begin in range(0, count, size):
        part = drawn.iloc[begin : begin + size]
        rows = vocabulary.indices(part.index)
        values = log.at(part.to_numpy(), channels)[np.arange(len(part)), rows]  # (T, C)
        for row in np.flatnonzero((values > 0).any(axis=1)):
            early += 1
            counted = [
                f"{channel} {value:g}" for channel, value in zip(channels, values[row], strict=True) if value > 0
            ]
            examples.append(
                {ITEM: str(part.index[row]), "asked at": to_iso(part.iloc[row]), "counted": ", ".join(counted)}
            )
    found = Finding(
        "items are trending before their first event", early, examples[: at.settings.audit.examples],
        "A trend counts events that had not happened, or that nobody knew of: it tells which items will be taken.",
        "Look at features/trends.py: an event counts when event_time < t and known_time <= t.",
    )  # fmt: skip
    return Outcome(count, "items", [found] if early else [])


def rankings(at: Cut) -> Outcome:
    """No measured model recommended an item before its first event was known."""
    findings, looked = [], 0
    for label, path in at.rankings.items():
        listed = _listed(path)
        looked += len(listed)
        entered = at.entered.reindex(listed["ranked"]).fillna(NEVER).to_numpy()
        early = listed[entered > listed["time_us"].to_numpy()].assign(entered=entered[entered > listed["time_us"]])
        if len(early):
            findings.append(Finding(
                f"{label} recommends items before their first event", len(early), _examples(early, at),
                "It ranks a catalogue of the future: its metrics are of items that it could not know of.",
                f"Export and evaluate {label} again on this split.",
            ))  # fmt: skip
    return Outcome(looked, "recommended items", findings)


def _listed(path: Path) -> pd.DataFrame:
    """Each item of each list: user, `time_us`, item."""
    table = pq.read_table(path, columns=[USER, "time", "ranked"]).to_pandas()
    times = table["time"].dt.as_unit("us").astype("int64")
    return table[[USER, "ranked"]].assign(time_us=times).explode("ranked").dropna(subset="ranked")


def _examples(early: pd.DataFrame, at: Cut) -> list[Row]:
    return [
        {
            USER: str(one[USER]),
            ITEM: str(one["ranked"]),
            "recommended at": to_iso(one["time_us"]),
            "first known": "never" if one["entered"] >= NEVER else to_iso(one["entered"]),
        }
        for one in early.head(at.settings.audit.examples).to_dict("records")
    ]
