"""Audit features: nothing in them may depend on the future.

Three families: statistics fitted before the cut (computed again from the past alone), items before their first event,
and the tensors of single cases (computed again without anything from the case's time on).
"""

from __future__ import annotations

import json
from dataclasses import replace
from functools import lru_cache, partial
from itertools import zip_longest

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from data.columns import DAY, EVENT_TIME, ITEM, USER
from data.tables import microseconds, timestamps
from data.times import to_iso
from experiments.leakage.cut import CASE_TIME, AuditedCut, Outcome, outcome
from features.encode import Batch
from features.sequences import EvaluationCases, InteractionLog, batches
from features.trends import ALL, TrendLog
from features.vocabulary import PAD
from training import validation
from training.datamodule import TrainBatch, TrainingBatches
from training.models.base import parse
from training.models.network import NetworkHyperparameters
from training.timeline import Timeline

COMPARED_ITEMS = 256  # whose similarity by text is compared
MAX_VALUE_LENGTH = 160
MOMENTS_AT_ONCE = 20  # a table of the trends at all of them may be larger than memory


# --- statistics that are fitted before the cut


def fitted_vocabulary(cut: AuditedCut) -> Outcome:
    """The vocabulary, and its order, which breaks ties of scores, come from events before the cut.

    Otherwise models know a future that no live platform can know. Run `python -m features.featurize` at both cuts, then
    fit again.
    """
    stored, again = cut.features.vocabulary.ids, cut.refitted.vocabulary.ids
    if different := sorted(set(stored) ^ set(again)):
        what = "the vocabulary holds other items than the past"
        known_from = _moments_or_never(cut.item_known_from.reindex(different))
        rows = pd.DataFrame({ITEM: different, "first known": known_from, "stored": np.isin(different, stored)})
    else:
        what = "the vocabulary is not ordered by popularity in the past"
        rows = pd.DataFrame({"stored": stored, "by the past": again})
        rows = rows[rows["stored"] != rows["by the past"]]
    return outcome(len(stored), "items", cut.finding(what, rows))


def _moments_or_never(times_us: pd.Series) -> list[str]:
    return ["never" if np.isnan(time) else to_iso(int(time)) for time in times_us]


def fitted_encoders(cut: AuditedCut) -> Outcome:
    """Values and bucket edges of user traits and request context come from rows before the cut.

    Run `python -m features.featurize` at both cuts, then fit again.
    """
    stored, again = cut.features.description["encoders"], cut.refitted.description["encoders"]
    pairs = [
        (kind, *pair)
        for kind in ("traits", "context")
        for pair in zip_longest(stored[kind], again[kind], fillvalue={"column": "(none)"})
    ]
    findings = [
        cut.finding(
            f"the encoder of the {kind} column {ours['column']!r} was not fitted on the past",
            pd.DataFrame({"stored": [_short(ours)], "by the past": [_short(theirs)]}),
        )
        for kind, ours, theirs in pairs
        if ours != theirs
    ]
    return outcome(len(pairs), "columns", *findings)


def _short(encoder: dict) -> str:
    return json.dumps(encoder.get("values", encoder.get("edges", [])), ensure_ascii=False)[:MAX_VALUE_LENGTH]


def fitted_content(cut: AuditedCut) -> Outcome:
    """Genres, text and numbers of items are scaled and projected by items before the cut.

    Run `python -m features.featurize` at both cuts, then fit again.
    """
    features, again = cut.features, cut.refitted
    if features.vocabulary.ids != again.vocabulary.ids:
        return outcome(0, "items")  # rows cannot be compared; the check of the vocabulary fails
    ids = np.array(features.vocabulary.ids, dtype=object)
    widths, widths_again = features.description["content_widths"], again.description["content_widths"]
    if widths != widths_again:
        rows = pd.DataFrame({"stored": [json.dumps(widths)], "by the past": [json.dumps(widths_again)]})
        return outcome(len(ids), "items", cut.finding("item features have other columns than the past", rows))
    findings, begin = [], 0
    for group, width in widths.items():
        columns = slice(begin, begin + width)
        wrong = _different_rows(group, features.item_features[1:, columns], again.item_features[1:, columns])
        what = f"item features of the group {group!r} were not fitted on the past"
        findings.append(cut.finding(what, pd.DataFrame({ITEM: ids[wrong]})))
        begin += width
    return outcome(len(ids), "items", *findings)


def _different_rows(group: str, stored: np.ndarray, again: np.ndarray) -> np.ndarray:
    """Rows that differ. Text is compared by the similarity of items: a projection may be rotated on another machine."""
    if group == "text":
        some = np.unique(np.linspace(0, max(len(stored) - 1, 0), COMPARED_ITEMS).astype(int))[: len(stored)]
        stored, again = stored @ stored[some].T, again @ again[some].T
    return np.flatnonzero((np.abs(stored - again) > 0.01).any(axis=1))


def fitted_trends(cut: AuditedCut) -> Outcome:
    """Popularity and trends at the cut equal a second count of the events before it.

    See features/trends.py: an event counts if event_time < t and known_time <= t.
    """
    features, channels = cut.features, cut.features.description["channels"]
    rows, times = features.vocabulary.indices(cut.past[ITEM]), microseconds(cut.past[EVENT_TIME])
    stored = features.trend_log().at(np.array([cut.start_us]), channels)[0]
    ids, findings = cut.item_ids(np.arange(len(stored))), []
    for column, channel in enumerate(channels):
        counted = np.bincount(rows, trend_weights(channel, cut.start_us - times), len(features.vocabulary))
        counted[PAD] = 0
        compared = pd.DataFrame({ITEM: ids, "trend": stored[:, column], "counted again": counted})
        wrong = ~np.isclose(stored[:, column], counted, rtol=1e-3, atol=1e-3)
        findings.append(cut.finding(f"the trend {channel} at the cut is not what the past holds", compared[wrong]))
    return outcome(stored[1:].size, "items by trends", *findings)


def trend_weights(channel: str, age_us: np.ndarray) -> np.ndarray:
    """(E,) weights of events by age. Written a second time: features/trends.py is what is audited."""
    if channel == ALL:
        return np.ones(len(age_us))
    kind, days = channel.rsplit("_", 1)
    span = int(days.removesuffix("d")) * DAY
    return (age_us <= span).astype(float) if kind == "window" else 2.0 ** (-age_us / span)


# --- items before their first event


def future_trends(cut: AuditedCut) -> Outcome:
    """No trend counts an item before its first event is known.

    Such a trend shows which items will be taken. See features/trends.py: an event counts if event_time < t and
    known_time <= t.
    """
    vocabulary, channels = cut.features.vocabulary, cut.features.description["channels"]
    known_from = cut.item_known_from.reindex(vocabulary.ids).dropna().astype(np.int64)
    count = min(len(known_from), cut.settings.audit.first_items)
    rng = np.random.default_rng(cut.settings.seed)
    moments = known_from.iloc[rng.choice(len(known_from), count, replace=False)].sort_values(kind="stable") - 1
    log = cut.features.trend_log()
    parts = (moments.iloc[begin : begin + MOMENTS_AT_ONCE] for begin in range(0, count, MOMENTS_AT_ONCE))
    values = [
        log.at(part.to_numpy(), channels)[np.arange(len(part)), vocabulary.indices(part.index)]  # (T, C)
        for part in parts
    ]
    counted = pd.DataFrame(np.concatenate(values), columns=channels)
    counted.insert(0, ITEM, moments.index)
    counted.insert(1, CASE_TIME, timestamps(moments.to_numpy()))
    early = counted[(counted[channels] > 0).any(axis=1)]
    return outcome(count, "items", cut.finding("items have trends before their first event", early))


def future_rankings(cut: AuditedCut) -> Outcome:
    """No evaluated model recommended an item before its first event was known.

    Such a model ranks a catalog of the future: its metrics count items that it could not know. Export and evaluate it
    again on this split.
    """
    findings, looked = [], 0
    for label, path in cut.rankings.items():
        table = pd.read_parquet(path, columns=[USER, "time", "ranked"]).explode("ranked").dropna(subset="ranked")
        looked += len(table)
        known_from = cut.item_known_from.reindex(table["ranked"]).to_numpy()
        early = ~(known_from <= microseconds(table["time"]))
        rows = pd.DataFrame({USER: table[USER], ITEM: table["ranked"], "recommended at": table["time"]})[early]
        rows["first known"] = _moments_or_never(pd.Series(known_from[early]))
        findings.append(cut.finding(f"{label} recommends items before their first event", rows))
    return outcome(looked, "recommended items", *findings)


# --- the tensors of single cases and questions


def time_travel(cut: AuditedCut) -> Outcome:
    """Every tensor that a model reads for a case is the same when everything from the case's time on is removed.

    Otherwise it holds in evaluation what a live request cannot hold: the model will be worse live than in its metrics.
    See features/sequences.py, features/trends.py and `moments` in training/validation.py.
    """
    whole = cut.features.trend_log()
    past_of = lru_cache(maxsize=1)(partial(world_until, cut))  # all cases of a horizon share one time
    rows, looked = [], 0
    for target, cases in sorted(cut.cases.items(), reverse=True):  # next_item first: its times differ
        order = np.random.default_rng(cut.settings.seed).permutation(len(cases))
        for row in order[: cut.settings.audit.travelled_cases]:
            case = cases.take(np.array([row]))
            looked += 1
            past, trends = past_of(int(case.time[0]))
            about = {"target": target, USER: cut.features.users[case.user[0]], "time": to_iso(case.time[0])}
            rows += [about | difference for difference in _differences(cut, case, whole, past, trends)]
    found = pd.DataFrame(rows, columns=["feature", "target", USER, "time", "with all data", "with the past alone"])
    findings = [
        cut.finding(f"the feature {feature} reads its own time or later", part.drop(columns="feature"))
        for feature, part in found.groupby("feature", sort=False)
    ]
    return outcome(looked, "cases", *findings)


def world_until(cut: AuditedCut, time_us: int) -> tuple[InteractionLog, TrendLog]:
    """The log and the trends if nothing existed from a time on."""
    log = cut.features.log.before(time_us)
    return log, TrendLog(log.items, log.times, log.known, len(cut.features.vocabulary))


def _differences(
    cut: AuditedCut, case: EvaluationCases, whole: TrendLog, past: InteractionLog, trends: TrendLog
) -> list[dict[str, str]]:
    """Features of one case that differ, with their values with all data and with the past alone."""
    log = cut.features.log
    # A live request has the context of its event; nothing is known ahead of time.
    context = log.context[case.event] if case.target == "next_item" else np.zeros_like(case.context)
    with_all = _encode(cut, log, case, whole)
    with_past = _encode(cut, past, replace(case, end=past.offsets[case.user + 1], context=context), trends)
    pairs = {name: (getattr(with_all, name), getattr(with_past, name)) for name in ("items", "item_times", "context")}
    pairs["seen"] = with_all.seen[1], with_past.seen[1]
    # Traits come with a user's first event and are unknown before it.
    arrived = log.times[log.offsets[case.user]] <= case.time
    pairs["traits"] = with_all.traits, torch.from_numpy(np.where(arrived[:, None], log.traits[case.user], 0))
    for column, channel in enumerate(cut.features.description["channels"]):
        ours, theirs = (batch.trends[batch.moment, :, column] for batch in (with_all, with_past))
        pairs[f"trend {channel}"] = ours, theirs
    return [_describe(cut, name, *pair) for name, pair in pairs.items() if not torch.equal(*pair)]


def _encode(cut: AuditedCut, log: InteractionLog, case: EvaluationCases, trends: TrendLog) -> Batch:
    refreshed = validation.moments(case, cut.features.description["refresh_minutes"])
    channels = tuple(cut.features.description["channels"])
    return next(batches(log, case, trends, channels, refreshed, 1, None))[1]


def _describe(cut: AuditedCut, name: str, with_all: Tensor, with_past: Tensor) -> dict[str, str]:
    """Both values as text: the number of events, or the first value that differs."""
    pair = with_all.flatten(), with_past.flatten()
    if name in ("items", "seen", "item_times"):
        texts = [f"{len(values)} events" for values in pair]
    else:
        place = int((pair[0] != pair[1]).nonzero()[0])
        item = f"item {cut.item_ids(np.array([place]))[0]}: " if name.startswith("trend") else ""
        texts = [f"{item}{values[place]:g}" for values in pair]
    return {"feature": name, "with all data": texts[0], "with the past alone": texts[1]}


def training_batches(cut: AuditedCut) -> Outcome:
    """A training batch holds no visible event, no true item and no trend of a question's own time or later.

    See `TrainingBatches` in training/datamodule.py and `cut_rows` in training/timeline.py; fit every network again.
    """
    models = (parse(section) for section in cut.settings.train.models.values())
    network = next((one for one in models if isinstance(one, NetworkHyperparameters)), None)
    if network is None or not len(Timeline(cut.features.past)):
        return outcome(0, "questions")
    batches = TrainingBatches(cut.features, (), network, cut.settings.seed)
    leaks, looked = [pd.DataFrame()], 0
    for batch in batches:
        looked += len(batch.query)
        leaks.append(_leaks_in_batch(cut, batch, batches.table.moments))
        if looked >= cut.settings.audit.training_questions:
            break
    finding = cut.finding("a training batch shows a question events of its own time or later", pd.concat(leaks))
    return outcome(looked, "questions", finding)


def _leaks_in_batch(cut: AuditedCut, batch: TrainBatch, moments: np.ndarray) -> pd.DataFrame:
    """Visible events that are not older than their question, true items in the history, and later trends."""
    query, size = batch.query, len(cut.features.vocabulary)
    items, times = query.items[query.row].numpy(), query.item_times[query.row].numpy()
    time = query.time.numpy()
    visible = np.arange(items.shape[1]) < query.position.numpy()[:, None]
    row, column = np.nonzero(visible & (times >= time[:, None]))
    target, true = batch.target_query.numpy(), batch.target_item.numpy()
    known = np.isin(target * size + true, batch.seen[0].numpy() * size + batch.seen[1].numpy())
    trend = moments[query.moment.numpy()]
    later = np.flatnonzero(trend > time)
    kinds = [
        (row, items[row, column], [to_iso(moment) for moment in times[row, column]]),
        (target[known], true[known], "the true item itself"),
        (later, np.full(len(later), PAD), [f"trends as of {to_iso(moment)}" for moment in trend[later]]),
    ]
    return pd.concat([
        pd.DataFrame({CASE_TIME: timestamps(time[question]), ITEM: cut.item_ids(item), "sees": sees})
        for question, item, sees in kinds
    ])  # fmt: skip
