"""Statistics: what was fitted before a cut is fitted again where no later row exists, and must come out the same."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import islice, zip_longest

import numpy as np

from data.columns import DAY, EVENT_TIME, ITEM
from data.times import to_iso
from experiments.leakage.cut import Cut, Finding, Outcome, Row
from experiments.leakage.event_order import FEATURIZE_AGAIN, TIES_MEANING
from features.featurize import microseconds
from features.trends import ALL
from features.vocabulary import PAD
from training.datamodule import TrainBatch, Windows
from training.windows import Timeline

FITTED_MEANING = "It was fitted on rows of after the cut: models know of the future what no live platform can."
REMEDY = f"{FEATURIZE_AGAIN} If `featurize` in params.yaml did not change since, it fits on more than the rows before `cut_us`."
COMPARED_ITEMS = 256  # whose likeness by text is compared


def vocabulary(at: Cut) -> Outcome:
    """The vocabulary, and the order that breaks ties of scores, come of events before the cut."""
    stored, again = at.features.vocabulary.ids, at.refitted["vocabulary"].ids
    if strange := sorted(set(stored) ^ set(again)):
        what, rows = "the vocabulary holds other items than the past", len(strange)
        examples = [{ITEM: one, "stored": str(one in set(stored)), "in the past": str(one in set(again))}
                    for one in strange]  # fmt: skip
    else:
        moved = [row for row, (one, other) in enumerate(zip(stored, again, strict=True)) if one != other]
        what, rows = "the vocabulary's order is not that of popularity in the past", len(moved)
        examples = [{"row": str(row + 1), "stored": stored[row], "by the past": again[row]} for row in moved]
    found = Finding(what, rows, examples[: at.settings.audit.examples], FITTED_MEANING, REMEDY)
    return Outcome(len(stored), "items", [found] if rows else [])


def encoders(at: Cut) -> Outcome:
    """Values and bucket edges of user traits and request context come of rows before the cut."""
    stored, again = at.features.description["encoders"], at.refitted["description"]["encoders"]
    findings, columns = [], 0
    for kind in ("traits", "context"):
        for one, other in zip_longest(stored[kind], again[kind], fillvalue={"column": "(none)"}):
            columns += 1
            if one != other:
                example = {"column": one["column"], "stored": _rows(one), "by the past": _rows(other)}
                what = f"the encoder of {kind} column {one['column']!r} was not fitted on the past"
                findings.append(Finding(what, 1, [example], FITTED_MEANING, REMEDY))
    return Outcome(columns, "columns", findings)


def _rows(encoder: dict) -> str:
    """Values or edges, as short as a table's cell."""
    text = json.dumps(encoder.get("values", encoder.get("edges", [])), ensure_ascii=False)
    return text if len(text) <= 160 else f"{text[:160]}…"


def content(at: Cut) -> Outcome:
    """Genres, text and numbers of items are scaled and projected by what items before the cut show."""
    features, again = at.features, at.refitted
    items = len(features.vocabulary) - 1
    if features.vocabulary.ids != again["vocabulary"].ids:
        return Outcome(0, "items", [])  # rows cannot be set side by side; `vocabulary` tells of it
    stored, widths = features.item_features, features.description["content_widths"]
    if widths != again["description"]["content_widths"]:
        example = {"stored": json.dumps(widths), "by the past": json.dumps(again["description"]["content_widths"])}
        found = Finding("item features have other columns than the past", 1, [example], FITTED_MEANING, REMEDY)
        return Outcome(items, "items", [found])
    findings, begin = [], 0
    for group, width in widths.items():
        part = slice(begin, begin + width)
        differs = _differs(group, stored[1:, part], again["item_features"][1:, part])
        begin += width
        if len(differs):
            examples = [{ITEM: features.vocabulary.ids[row]} for row in differs[: at.settings.audit.examples]]
            what = f"item features of the group {group!r} were not fitted on the past"
            findings.append(Finding(what, len(differs), examples, FITTED_MEANING, REMEDY))
    return Outcome(items, "items", findings)


def _differs(group: str, stored: np.ndarray, again: np.ndarray) -> np.ndarray:
    """Rows that differ. Text by the likeness of its items: a projection may come out turned on another machine."""
    if group == "text":
        spread = np.unique(np.linspace(0, max(len(stored) - 1, 0), COMPARED_ITEMS).astype(int))[: len(stored)]
        stored, again = stored @ stored[spread].T, again @ again[spread].T
    return np.flatnonzero((np.abs(stored - again) > 0.01).any(axis=1))


def trends(at: Cut) -> Outcome:
    """Popularity and trends at the cut are what counting the events before it by hand gives."""
    features, channels = at.features, at.features.description["channels"]
    rows, times = features.vocabulary.indices(at.past[ITEM]), microseconds(at.past[EVENT_TIME])
    stored = features.trend_log().at(np.array([at.start_us]), channels)[0]
    findings = []
    for column, channel in enumerate(channels):
        counted = np.bincount(rows, weights(channel, at.start_us - times), len(features.vocabulary))
        counted[PAD] = 0
        wrong = np.flatnonzero(~np.isclose(stored[:, column], counted, rtol=1e-3, atol=1e-3))
        if len(wrong):
            examples: list[Row] = [
                {ITEM: at.item(int(row)), "trend": f"{stored[row, column]:g}", "counted by hand": f"{counted[row]:g}"}
                for row in wrong[: at.settings.audit.examples]
            ]
            what = f"the trend {channel} at the cut is not what the past holds"
            remedy = "Look at features/trends.py: an event counts when event_time < t and known_time <= t."
            findings.append(Finding(what, len(wrong), examples, FITTED_MEANING, remedy))
    return Outcome(stored[1:].size, "items by trends", findings)


def weights(channel: str, age_us: np.ndarray) -> np.ndarray:
    """(E,) what events of an age count in a channel, written down a second time: features/trends.py is what is audited."""
    if channel == ALL:
        return np.ones(len(age_us))
    kind, days = channel.rsplit("_", 1)
    span = int(days.removesuffix("d")) * DAY
    return (age_us <= span).astype(float) if kind == "window" else 2.0 ** (-age_us / span)


def fed(at: Cut) -> Outcome:
    """A batch as a network is fed it: no visible event, and no trend, of a question's moment or later."""
    network = next((one for one in at.settings.train.models.values() if hasattr(one, "horizon_samples")), None)
    if network is None or not len(Timeline(at.features.past)):
        return Outcome(0, "questions", [])
    windows = Windows(at.features, (), network.model_dump(), at.settings.seed)
    examples: list[Row] = []
    looked = 0
    for batch in _some(iter(windows), at.settings.audit.training_questions):
        looked += len(batch.query)
        examples += _leaks(at, batch, windows.table.moments)
    remedy = "Look at `Windows` in training/datamodule.py and `cut_rows` in training/windows.py; refit every network."
    found = Finding("a training batch shows what came with its question or after it", len(examples),
                    examples[: at.settings.audit.examples], TIES_MEANING, remedy)  # fmt: skip
    return Outcome(looked, "questions", [found] if examples else [])


def _some(every: Iterator[TrainBatch], questions: int) -> Iterator[TrainBatch]:
    """Batches of one pass until they hold so many questions."""
    for batch in islice(every, questions):
        yield batch
        questions -= len(batch.query)
        if questions <= 0:
            return


def _leaks(at: Cut, batch: TrainBatch, moments: np.ndarray) -> list[Row]:
    """Each visible event that is not older than its question, each true item that its history holds, each later trend."""
    query, width = batch.query, batch.query.items.shape[1]
    visible = np.arange(width) < query.position.numpy()[:, None]
    items, times = query.items[query.row].numpy(), query.item_times[query.row].numpy()
    asked = query.time.numpy()
    question, place = np.nonzero(visible & (times >= asked[:, None]))
    found = [_question(at, asked[row], items[row, column], to_iso(times[row, column]))
             for row, column in zip(question, place, strict=True)]  # fmt: skip
    size = len(at.features.vocabulary)
    seen = batch.seen[0].numpy() * size + batch.seen[1].numpy()
    given = np.flatnonzero(np.isin(batch.question.numpy() * size + batch.item.numpy(), seen))
    found += [_question(at, asked[batch.question[row]], int(batch.item[row]), "the true item itself") for row in given]
    trend = moments[query.moment.numpy()]
    return found + [_question(at, asked[row], PAD, f"trends as of {to_iso(trend[row])}")
                    for row in np.flatnonzero(trend > asked)]  # fmt: skip


def _question(at: Cut, time_us: int, item: int, sees: str) -> Row:
    return {"asked at": to_iso(time_us), ITEM: at.item(int(item)), "sees": sees}
