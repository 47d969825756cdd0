"""How good a model is on cases that it was not fitted on: one number per target, for choosing.

Published metrics come from `experiments.evaluate`; this is the same ranking, averaged once.
"""

from __future__ import annotations

import numpy as np
import torch

from features.encode import Batch
from features.feature_files import Features
from features.sequences import EvaluationCases, batches, horizon_cases, next_item_cases
from features.trends import TrendLog, TrendSnapshot, last_refresh
from training.metrics import TrueRanks
from training.metrics import ndcg as ndcg_at
from training.models.base import Model
from training.models.ranking import exclude, rank
from training.threads import MOST, side_by_side

HEADLINE_K = 10


def cases(features: Features) -> dict[str, EvaluationCases]:
    """The cases of both targets in the period that follows the cut."""
    start, until = features.cut_us, features.description["until_us"]
    return {
        "horizon": horizon_cases(features.log, start, features.description["horizon_days"], until),
        "next_item": next_item_cases(features.log, start, until),
    }


def sample(every: EvaluationCases, count: int, seed: int) -> EvaluationCases:
    """At most `count` of the cases, the same ones for the same seed."""
    if len(every) <= count:
        return every
    rows = np.random.default_rng(seed).choice(len(every), size=count, replace=False)
    return every.take(np.sort(rows))


def moments(every: EvaluationCases, refresh_minutes: int) -> np.ndarray:
    """(n,) as of when each case sees item trends: the last refresh before it, as a live platform would."""
    return last_refresh(every.time, refresh_minutes)


def truth_positions(every: EvaluationCases, rows: np.ndarray) -> np.ndarray:
    """(R,) where the true items of the given cases stand in `every.truth`."""
    lengths = np.diff(every.truth_offsets)[rows]
    begin = every.truth_offsets[rows]
    return np.repeat(begin - np.concatenate([[0], np.cumsum(lengths)[:-1]]), lengths) + np.arange(lengths.sum())


def truth_pairs(every: EvaluationCases, rows: np.ndarray) -> torch.Tensor:
    """(2, R) int64: (row of the batch, true item row) of the given cases."""
    owner = np.repeat(np.arange(len(rows)), np.diff(every.truth_offsets)[rows])
    return torch.from_numpy(np.stack([owner, every.truth[truth_positions(every, rows)]]).astype(np.int64))


def ndcg(
    model: Model, features: Features, every: EvaluationCases, trends: TrendLog | TrendSnapshot, size: int
) -> np.ndarray:
    """(n,) NDCG@10 of each case; full catalogue, seen items excluded, ties against the model."""
    values = np.zeros(len(every))
    at = moments(every, features.description["refresh_minutes"])
    was_training = model.training
    model.eval()
    device = next(iter(model.state_dict().values()), torch.empty(0)).device

    def work(part: tuple[np.ndarray, Batch]) -> None:
        rows, batch = part[0], part[1].to(device)
        scores = exclude(model.scores(batch), batch.seen).cpu()
        pairs = truth_pairs(every, rows)
        _, ranks = rank(scores, pairs, HEADLINE_K)
        sizes = np.diff(every.truth_offsets)[rows]
        values[rows] = ndcg_at(TrueRanks(pairs[0].numpy(), ranks.numpy(), sizes), HEADLINE_K)

    parts = batches(features.log, every, trends, model.channels, at, size, model.max_history)
    side_by_side(parts, work, MOST if device.type == "cpu" else 1)
    model.train(was_training)
    return values
