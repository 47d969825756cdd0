"""Time travel: a feature of a moment is the same whether or not anything from that moment on exists."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from functools import lru_cache, partial

import numpy as np
import torch
from torch import Tensor

from data.columns import USER
from data.instants import to_iso
from experiments.leakage.cut import Cut
from experiments.leakage.finding import Finding, Outcome, Row
from features.encode import Batch
from features.sequences import Cases, Log, batches
from features.trends import TrendLog
from training import validate


def per_feature(at: Cut) -> Outcome:
    """Every tensor that a model reads of a case comes out the same when all from its moment on is taken away."""
    whole = at.features.trend_log()
    remaining = lru_cache(maxsize=1)(partial(left, at))  # all cases of `window` share one moment
    examples: dict[str, list[Row]] = defaultdict(list)
    looked = 0
    for target, cases in sorted(at.cases.items()):  # `next` first: its moments differ
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
            "Look at what makes it, in features/sequences.py, features/trends.py and training/validate.py (moments).",
        )
        for feature, rows in examples.items()
    ]  # fmt: skip
    return Outcome(looked, "cases", findings)


def left(at: Cut, time_us: int) -> tuple[Log, TrendLog]:
    """The log and the trends of a world that ends at a moment."""
    log = at.features.log.before(time_us)
    return log, TrendLog(log.items, log.times, log.known, len(at.features.vocabulary))


def differences(at: Cut, one: Cases, whole: TrendLog, past: Log, trends: TrendLog) -> dict[str, tuple[str, str]]:
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


def _batch(at: Cut, log: Log, case: Cases, trends: TrendLog) -> Batch:
    refreshed = validate.moments(case, at.features.description["refresh_minutes"])
    channels = tuple(at.features.description["channels"])
    return next(batches(log, case, trends, channels, refreshed, 1, None))[1]


def asked_with(log: Log, one: Cases) -> np.ndarray:
    """(1, K) the context that a live request would state: that of the event asked about; nothing ahead of time."""
    return log.context[one.event] if one.target == "next" else np.zeros_like(one.context)


def known_traits(log: Log, one: Cases) -> np.ndarray:
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
