"""Batches of training: what a network is fed, looked at as it is fed it."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

import numpy as np

from data.columns import ITEM
from data.instants import to_iso
from experiments.leakage.cut import Cut
from experiments.leakage.finding import Finding, Outcome, Row
from experiments.leakage.ties import MEANING
from features.vocabulary import PAD
from training.datamodule import TrainBatch, Windows
from training.windows import Timeline


def fed(at: Cut) -> Outcome:
    """A batch as a network is fed it: no visible event, and no trend, of a question's moment or later."""
    network = next((one for one in at.settings.train.models.values() if hasattr(one, "window_questions")), None)
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
                    examples[: at.settings.audit.examples], MEANING, remedy)  # fmt: skip
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
