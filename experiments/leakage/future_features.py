"""Time travel: a feature of a moment is the same whether or not anything from that moment on exists."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import torch
from torch import Tensor

from data.columns import ITEM, USER
from data.times import to_iso
from experiments.leakage.cut import Cut, Finding, Outcome, Row
from experiments.leakage.event_order import FEATURIZE_AGAIN
from features.encode import Batch
from features.sequences import EvaluationCases, Log, batches
from features.trends import TrendLog
from training import validation


def per_feature(at: Cut) -> Outcome:
    """Every tensor that a model reads of a case comes out the same when all from its moment on is taken away."""
    whole = at.features.trend_log()
    remaining = lru_cache(maxsize=1)(partial(left, at))  # all cases of `horizon` share one moment
    examples: dict[str, list[Row]] = defaultdict(list)
    looked = 0
    for target, cases in sorted(at.cases.items(), reverse=True):  # `next_item` first: its moments differ
        order = np.random.default_rng(at.settings.seed).permutation(len(cases))
        for row in order[: at.settings.audit.travelled_cases]:
            one = cases.take(np.array([row]))
            looked += 1
            for feature, (with_all, with_past) in differences(at, one, whole, *remaining(int(one.time[0]))).items():
                examples[feature].append(
                    {"target": target, USER: at.user(int(one.user[0])), "moment": to_iso(one.time[0]),
                     "with all data": with_all, "with the past alone": with_past}
                )  # fmt: skip
    findings = [
        Finding(
            f"the feature {feature} reads its own moment or later", len(rows), rows[: at.settings.audit.examples],
            "Measured here, it holds what a live request cannot: the model will be worse than its metrics.",
            "Look at what makes it, in features/sequences.py, features/trends.py and training/validation.py (moments).",
        )
        for feature, rows in examples.items()
    ]  # fmt: skip
    return Outcome(looked, "cases", findings)


def left(at: Cut, time_us: int) -> tuple[Log, TrendLog]:
    """The log and the trends of a world that ends at a moment."""
    log = at.features.log.before(time_us)
    return log, TrendLog(log.items, log.times, log.known, len(at.features.vocabulary))


def differences(
    at: Cut, one: EvaluationCases, whole: TrendLog, past: Log, trends: TrendLog
) -> dict[str, tuple[str, str]]:
    """Feature -> how it reads with all data and with the past alone, of one case and the features that differ."""
    log = at.features.log
    given = _batch(at, log, one, whole)
    stated = replace(one, end=past.offsets[one.user + 1], context=asked_with(log, one))
    alone = _batch(at, past, stated, trends)
    pairs = {name: (getattr(given, name), getattr(alone, name)) for name in ("items", "item_times", "context")}
    pairs["seen"] = given.seen[1], alone.seen[1]
    pairs["traits"] = given.traits, torch.from_numpy(known_traits(log, one))
    for column, channel in enumerate(at.features.description["channels"]):
        pairs[f"trend {channel}"] = given.trends[given.moment, :, column], alone.trends[alone.moment, :, column]
    return {name: _told(at, name, *pair) for name, pair in pairs.items() if not torch.equal(*pair)}


def _batch(at: Cut, log: Log, case: EvaluationCases, trends: TrendLog) -> Batch:
    refreshed = validation.moments(case, at.features.description["refresh_minutes"])
    channels = tuple(at.features.description["channels"])
    return next(batches(log, case, trends, channels, refreshed, 1, None))[1]


def asked_with(log: Log, one: EvaluationCases) -> np.ndarray:
    """(1, K) the context that a live request would state: that of the event asked about; nothing ahead of time."""
    return log.context[one.event] if one.target == "next_item" else np.zeros_like(one.context)


def known_traits(log: Log, one: EvaluationCases) -> np.ndarray:
    """(1, F) a user's traits, unknown until the first event, at which they are stated."""
    arrived = log.times[log.offsets[one.user]] <= one.time
    return np.where(arrived[:, None], log.traits[one.user], 0)


def _told(at: Cut, name: str, with_all: Tensor, with_past: Tensor) -> tuple[str, str]:
    """Both as a person would read them: what only one of the histories holds, or the first value that differs."""
    ours, theirs = with_all.flatten(), with_past.flatten()
    if name in ("items", "seen", "item_times"):
        extra = [part[~torch.isin(part, other)] for part, other in ((ours, theirs), (theirs, ours))]
        more, less = (", ".join(_word(at, name, int(value)) for value in part[:3]) for part in extra)
        return (
            f"{len(ours)} events{f', with {more}' if more else ''}",
            f"{len(theirs)}{f', with {less}' if less else ''}",
        )
    place = int((ours != theirs).nonzero()[0])
    item = f"item {at.item(place)}: " if name.startswith("trend") else ""
    return f"{item}{ours[place]:g}", f"{item}{theirs[place]:g}"


def _word(at: Cut, name: str, value: int) -> str:
    return to_iso(value) if name == "item_times" else at.item(value)


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
