"""Audit features: nothing in them may depend on the future.

Three families: statistics fitted before the cut (computed again from the past alone), items before their first event,
and the tensors of single cases (computed again without anything from the case's time on).
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache, partial
from itertools import islice, zip_longest
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import torch
from torch import Tensor

from data.columns import DAY, EVENT_TIME, ITEM, USER
from data.tables import microseconds
from data.times import to_iso
from experiments.leakage.cut import AuditedCut, Finding, Outcome, Row, outcome
from experiments.leakage.event_order import FEATURIZE_AGAIN, TIES_MEANING
from features.encode import Batch
from features.sequences import EvaluationCases, InteractionLog, batches
from features.trends import ALL, TrendLog
from features.vocabulary import PAD
from training import validation
from training.datamodule import TrainBatch, TrainingBatches
from training.models.base import parse
from training.models.network import NetworkHyperparameters
from training.timeline import Timeline

NEVER = np.iinfo(np.int64).max
TREND_CELLS = 2**24  # in memory at once, in one table of trends
COMPARED_ITEMS = 256  # whose similarity by text is compared
FITTED_MEANING = "It was fitted on rows from after the cut: models know a future that no live platform can know."
FIT_AGAIN = (
    f"{FEATURIZE_AGAIN} If `featurize` in params.yaml has not changed, it fits on more than the rows before `cut_us`."
)
FIX_TRENDS = "See features/trends.py: an event counts if event_time < t and known_time <= t."


# --- statistics that are fitted before the cut


def fitted_vocabulary(cut: AuditedCut) -> Outcome:
    """The vocabulary, and its order, which breaks ties of scores, come from events before the cut."""
    stored, again = cut.features.vocabulary.ids, cut.refitted.vocabulary.ids
    if different := sorted(set(stored) ^ set(again)):
        what = "the vocabulary holds other items than the past"
        examples = [{ITEM: item, "stored": str(item in set(stored)), "in the past": str(item in set(again))}
                    for item in different]  # fmt: skip
    else:
        what = "the vocabulary is not ordered by popularity in the past"
        examples = [{"row": str(row + 1), "stored": ours, "by the past": theirs}
                    for row, (ours, theirs) in enumerate(zip(stored, again, strict=True)) if ours != theirs]  # fmt: skip
    finding = Finding(what, len(examples), cut.first(examples), FITTED_MEANING, FIT_AGAIN)
    return outcome(len(stored), "items", finding)


def fitted_encoders(cut: AuditedCut) -> Outcome:
    """Values and bucket edges of user traits and request context come from rows before the cut."""
    stored, again = cut.features.description["encoders"], cut.refitted.description["encoders"]
    findings, columns = [], 0
    for kind in ("traits", "context"):
        for ours, theirs in zip_longest(stored[kind], again[kind], fillvalue={"column": "(none)"}):
            columns += 1
            if ours != theirs:
                example = {"column": ours["column"], "stored": _values(ours), "by the past": _values(theirs)}
                what = f"the encoder of the {kind} column {ours['column']!r} was not fitted on the past"
                findings.append(Finding(what, 1, [example], FITTED_MEANING, FIT_AGAIN))
    return outcome(columns, "columns", *findings)


def _values(encoder: dict) -> str:
    """Values or edges, short enough for a table cell."""
    text = json.dumps(encoder.get("values", encoder.get("edges", [])), ensure_ascii=False)
    return text if len(text) <= 160 else f"{text[:160]}…"


def fitted_content(cut: AuditedCut) -> Outcome:
    """Genres, text and numbers of items are scaled and projected by items before the cut."""
    features, again = cut.features, cut.refitted
    items = len(features.vocabulary) - 1
    if features.vocabulary.ids != again.vocabulary.ids:
        return outcome(0, "items")  # rows cannot be compared; the check of the vocabulary fails
    widths, widths_again = features.description["content_widths"], again.description["content_widths"]
    if widths != widths_again:
        example = {"stored": json.dumps(widths), "by the past": json.dumps(widths_again)}
        what = "item features have other columns than the past"
        return outcome(items, "items", Finding(what, 1, [example], FITTED_MEANING, FIT_AGAIN))
    findings, begin = [], 0
    for group, width in widths.items():
        columns = slice(begin, begin + width)
        rows = _different_rows(group, features.item_features[1:, columns], again.item_features[1:, columns])
        begin += width
        examples = [{ITEM: features.vocabulary.ids[row]} for row in rows[: cut.settings.audit.examples]]
        what = f"item features of the group {group!r} were not fitted on the past"
        findings.append(Finding(what, len(rows), examples, FITTED_MEANING, FIT_AGAIN))
    return outcome(items, "items", *findings)


def _different_rows(group: str, stored: np.ndarray, again: np.ndarray) -> np.ndarray:
    """Rows that differ. Text is compared by the similarity of items: a projection may be rotated on another machine."""
    if group == "text":
        some = np.unique(np.linspace(0, max(len(stored) - 1, 0), COMPARED_ITEMS).astype(int))[: len(stored)]
        stored, again = stored @ stored[some].T, again @ again[some].T
    return np.flatnonzero((np.abs(stored - again) > 0.01).any(axis=1))


def fitted_trends(cut: AuditedCut) -> Outcome:
    """Popularity and trends at the cut equal a second count of the events before it."""
    features, channels = cut.features, cut.features.description["channels"]
    rows, times = features.vocabulary.indices(cut.past[ITEM]), microseconds(cut.past[EVENT_TIME])
    stored = features.trend_log().at(np.array([cut.start_us]), channels)[0]
    findings = []
    for column, channel in enumerate(channels):
        counted = np.bincount(rows, trend_weights(channel, cut.start_us - times), len(features.vocabulary))
        counted[PAD] = 0
        wrong = np.flatnonzero(~np.isclose(stored[:, column], counted, rtol=1e-3, atol=1e-3))
        examples = [
            {ITEM: cut.item(int(row)), "trend": f"{stored[row, column]:g}", "counted again": f"{counted[row]:g}"}
            for row in wrong[: cut.settings.audit.examples]
        ]
        what = f"the trend {channel} at the cut is not what the past holds"
        findings.append(Finding(what, len(wrong), examples, FITTED_MEANING, FIX_TRENDS))
    return outcome(stored[1:].size, "items by trends", *findings)


def trend_weights(channel: str, age_us: np.ndarray) -> np.ndarray:
    """(E,) weights of events by age. Written a second time here: features/trends.py is what is audited."""
    if channel == ALL:
        return np.ones(len(age_us))
    kind, days = channel.rsplit("_", 1)
    span = int(days.removesuffix("d")) * DAY
    return (age_us <= span).astype(float) if kind == "window" else 2.0 ** (-age_us / span)


# --- items before their first event


def future_vocabulary(cut: AuditedCut) -> Outcome:
    """Every item that a model can name had an event, and was known, before the cut."""
    ids = cut.features.vocabulary.ids
    known_from = cut.item_known_from.reindex(ids).to_numpy()
    late = np.flatnonzero(~(known_from <= cut.start_us))  # NaN, an item without events, is late too
    examples = [
        {ITEM: ids[row], "first known": "never" if np.isnan(known_from[row]) else to_iso(known_from[row])}
        for row in late[: cut.settings.audit.examples]
    ]
    return outcome(len(ids), "items", Finding(
        f"the vocabulary holds items from after the cut, {to_iso(cut.start_us)}", len(late), examples,
        "A model can recommend items that did not exist yet, and ranks another catalog than a live one.", FEATURIZE_AGAIN,
    ))  # fmt: skip


def future_trends(cut: AuditedCut) -> Outcome:
    """No trend counts an item before its first event is known."""
    vocabulary, channels = cut.features.vocabulary, cut.features.description["channels"]
    known_from = cut.item_known_from.reindex(vocabulary.ids).dropna().astype(np.int64)
    count = min(len(known_from), cut.settings.audit.first_items)
    rng = np.random.default_rng(cut.settings.seed)
    moments = known_from.iloc[rng.choice(len(known_from), count, replace=False)].sort_values(kind="stable") - 1
    examples: list[Row] = []
    log, size = cut.features.trend_log(), max(1, TREND_CELLS // (len(vocabulary) * len(channels)))
    for begin in range(0, count, size):
        part = moments.iloc[begin : begin + size]
        values = log.at(part.to_numpy(), channels)[np.arange(len(part)), vocabulary.indices(part.index)]  # (T, C)
        for row in np.flatnonzero((values > 0).any(axis=1)):
            counted = ", ".join(
                f"{name} {value:g}" for name, value in zip(channels, values[row], strict=True) if value > 0
            )
            examples.append({ITEM: str(part.index[row]), "asked at": to_iso(part.iloc[row]), "counted": counted})
    return outcome(count, "items", Finding(
        "items have trends before their first event", len(examples), cut.first(examples),
        "A trend counts events that had not happened or were not known: it tells which items will be taken.", FIX_TRENDS,
    ))  # fmt: skip


def future_rankings(cut: AuditedCut) -> Outcome:
    """No evaluated model recommended an item before its first event was known."""
    findings, looked = [], 0
    for label, path in cut.rankings.items():
        listed = _recommended(path)
        looked += len(listed)
        known_from = cut.item_known_from.reindex(listed["ranked"]).fillna(NEVER).to_numpy()
        early = listed.assign(known_from=known_from)[known_from > listed["time_us"].to_numpy()]
        examples = [
            {USER: str(row[USER]), ITEM: str(row["ranked"]), "recommended at": to_iso(row["time_us"]),
             "first known": "never" if row["known_from"] >= NEVER else to_iso(row["known_from"])}
            for row in early.head(cut.settings.audit.examples).to_dict("records")
        ]  # fmt: skip
        findings.append(Finding(
            f"{label} recommends items before their first event", len(early), examples,
            "It ranks a catalog of the future: its metrics count items that it could not know.",
            f"Export and evaluate {label} again on this split.",
        ))  # fmt: skip
    return outcome(looked, "recommended items", *findings)


def _recommended(path: Path) -> pd.DataFrame:
    """Each item of each list: user, `time_us`, item."""
    table = pq.read_table(path, columns=[USER, "time", "ranked"]).to_pandas()
    times = table["time"].dt.as_unit("us").astype("int64")
    return table[[USER, "ranked"]].assign(time_us=times).explode("ranked").dropna(subset="ranked")


# --- the tensors of single cases and questions


def time_travel(cut: AuditedCut) -> Outcome:
    """Every tensor that a model reads for a case is the same when everything from the case's time on is removed."""
    whole = cut.features.trend_log()
    past_of = lru_cache(maxsize=1)(partial(world_until, cut))  # all cases of a horizon share one time
    examples: dict[str, list[Row]] = defaultdict(list)
    looked = 0
    for target, cases in sorted(cut.cases.items(), reverse=True):  # next_item first: its times differ
        order = np.random.default_rng(cut.settings.seed).permutation(len(cases))
        for row in order[: cut.settings.audit.travelled_cases]:
            case = cases.take(np.array([row]))
            looked += 1
            past, trends = past_of(int(case.time[0]))
            for feature, (with_all, with_past) in _differences(cut, case, whole, past, trends).items():
                examples[feature].append(
                    {"target": target, USER: cut.user(int(case.user[0])), "time": to_iso(case.time[0]),
                     "with all data": with_all, "with the past alone": with_past}
                )  # fmt: skip
    findings = [
        Finding(
            f"the feature {feature} reads its own time or later", len(rows), cut.first(rows),
            "In evaluation it holds what a live request cannot: the model will be worse live than in its metrics.",
            "See features/sequences.py, features/trends.py and `moments` in training/validation.py.",
        )
        for feature, rows in examples.items()
    ]  # fmt: skip
    return outcome(looked, "cases", *findings)


def world_until(cut: AuditedCut, time_us: int) -> tuple[InteractionLog, TrendLog]:
    """The log and the trends if nothing existed from a time on."""
    log = cut.features.log.before(time_us)
    return log, TrendLog(log.items, log.times, log.known, len(cut.features.vocabulary))


def _differences(
    cut: AuditedCut, case: EvaluationCases, whole: TrendLog, past: InteractionLog, trends: TrendLog
) -> dict[str, tuple[str, str]]:
    """Features of one case that differ -> their values with all data and with the past alone."""
    log = cut.features.log
    # A live request states the context of its event; nothing is stated ahead of time.
    context = log.context[case.event] if case.target == "next_item" else np.zeros_like(case.context)
    with_all = _encode(cut, log, case, whole)
    with_past = _encode(cut, past, replace(case, end=past.offsets[case.user + 1], context=context), trends)
    pairs = {name: (getattr(with_all, name), getattr(with_past, name)) for name in ("items", "item_times", "context")}
    pairs["seen"] = with_all.seen[1], with_past.seen[1]
    # Traits are stated with a user's first event and unknown before it.
    arrived = log.times[log.offsets[case.user]] <= case.time
    pairs["traits"] = with_all.traits, torch.from_numpy(np.where(arrived[:, None], log.traits[case.user], 0))
    for column, channel in enumerate(cut.features.description["channels"]):
        ours, theirs = (batch.trends[batch.moment, :, column] for batch in (with_all, with_past))
        pairs[f"trend {channel}"] = ours, theirs
    return {name: _describe(cut, name, *pair) for name, pair in pairs.items() if not torch.equal(*pair)}


def _encode(cut: AuditedCut, log: InteractionLog, case: EvaluationCases, trends: TrendLog) -> Batch:
    refreshed = validation.moments(case, cut.features.description["refresh_minutes"])
    channels = tuple(cut.features.description["channels"])
    return next(batches(log, case, trends, channels, refreshed, 1, None))[1]


def _describe(cut: AuditedCut, name: str, with_all: Tensor, with_past: Tensor) -> tuple[str, str]:
    """Both values as text: what only one of the histories holds, or the first value that differs."""
    ours, theirs = with_all.flatten(), with_past.flatten()
    if name in ("items", "seen", "item_times"):
        word = to_iso if name == "item_times" else cut.item
        more, less = (
            ", ".join(word(int(value)) for value in one[~torch.isin(one, other)][:3])
            for one, other in ((ours, theirs), (theirs, ours))
        )
        return (
            f"{len(ours)} events" + (f", with {more}" if more else ""),
            f"{len(theirs)}" + (f", with {less}" if less else ""),
        )
    place = int((ours != theirs).nonzero()[0])
    item = f"item {cut.item(place)}: " if name.startswith("trend") else ""
    return f"{item}{ours[place]:g}", f"{item}{theirs[place]:g}"


def training_batches(cut: AuditedCut) -> Outcome:
    """A training batch holds no visible event, no true item and no trend of a question's own time or later."""
    models = (parse(section) for section in cut.settings.train.models.values())
    network = next((one for one in models if isinstance(one, NetworkHyperparameters)), None)
    if network is None or not len(Timeline(cut.features.past)):
        return outcome(0, "questions")
    batches = TrainingBatches(cut.features, (), network, cut.settings.seed)
    examples: list[Row] = []
    looked = 0
    for batch in _first_batches(iter(batches), cut.settings.audit.training_questions):
        looked += len(batch.query)
        examples += _leaks_in_batch(cut, batch, batches.table.moments)
    return outcome(looked, "questions", Finding(
        "a training batch shows a question events of its own time or later", len(examples), cut.first(examples),
        TIES_MEANING, "See `TrainingBatches` in training/datamodule.py and `cut_rows` in training/timeline.py; fit every network again.",
    ))  # fmt: skip


def _first_batches(batches: Iterator[TrainBatch], questions: int) -> Iterator[TrainBatch]:
    """Batches of one pass until they hold this many questions."""
    for batch in islice(batches, questions):
        yield batch
        questions -= len(batch.query)
        if questions <= 0:
            return


def _leaks_in_batch(cut: AuditedCut, batch: TrainBatch, moments: np.ndarray) -> list[Row]:
    """Visible events that are not older than their question, true items in the history, and later trends."""
    query, width, size = batch.query, batch.query.items.shape[1], len(cut.features.vocabulary)
    items, times = query.items[query.row].numpy(), query.item_times[query.row].numpy()
    asked = query.time.numpy()
    visible = np.arange(width) < query.position.numpy()[:, None]

    def example(question: int, item: int, sees: str) -> Row:
        return {"asked at": to_iso(asked[question]), ITEM: cut.item(int(item)), "sees": sees}

    late = zip(*np.nonzero(visible & (times >= asked[:, None])), strict=True)
    examples = [example(row, items[row, column], to_iso(times[row, column])) for row, column in late]
    seen = batch.seen[0].numpy() * size + batch.seen[1].numpy()
    true = np.flatnonzero(np.isin(batch.target_query.numpy() * size + batch.target_item.numpy(), seen))
    examples += [
        example(int(batch.target_query[row]), int(batch.target_item[row]), "the true item itself") for row in true
    ]
    trend = moments[query.moment.numpy()]
    return examples + [
        example(int(row), PAD, f"trends as of {to_iso(trend[row])}") for row in np.flatnonzero(trend > asked)
    ]
