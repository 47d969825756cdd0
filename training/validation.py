"""How good a model is on cases that it was not fitted on: one number per target, to choose by.

Published metrics come from `experiments.evaluate`; this is the same ranking, averaged once.
"""

from __future__ import annotations

import numpy as np
import torch

from features.encode import Batch
from features.feature_files import Features
from features.ragged import ranges, row_numbers
from features.sequences import EvaluationCases, batches, horizon_cases, next_item_cases
from features.trends import TrendLog, TrendSnapshot, last_refresh
from training.metrics import TrueRanks
from training.metrics import ndcg as ndcg_at
from training.models.base import Model
from training.models.ranking import exclude, rank
from training.threads import MAX_THREADS, run_in_threads

HEADLINE_K = 10


def cases(features: Features) -> dict[str, EvaluationCases]:
    """The cases of both targets in the period that follows the cut."""
    start, until = features.cut_us, features.description["until_us"]
    return {
        "horizon": horizon_cases(features.log, start, features.description["horizon_days"], until),
        "next_item": next_item_cases(features.log, start, until),
    }


def sample(cases: EvaluationCases, count: int, seed: int) -> EvaluationCases:
    """At most `count` of the cases, the same ones for the same seed."""
    if len(cases) <= count:
        return cases
    rows = np.random.default_rng(seed).choice(len(cases), size=count, replace=False)
    return cases.take(np.sort(rows))


def sampled_cases(features: Features, count: int, seed: int) -> dict[str, EvaluationCases]:
    """At most `count` cases of each target that has any, the same ones for the same seed."""
    return {target: sample(found, count, seed) for target, found in cases(features).items() if len(found)}


def moments(cases: EvaluationCases, refresh_minutes: int) -> np.ndarray:
    """(n,) the time of the item trends that each case sees: the last refresh before it, as on a live platform."""
    return last_refresh(cases.time, refresh_minutes)


def truth_positions(cases: EvaluationCases, rows: np.ndarray) -> np.ndarray:
    """(R,) where the true items of the given cases stand in `cases.truth`."""
    return ranges(cases.truth_offsets[rows], np.diff(cases.truth_offsets)[rows])


def truth_pairs(cases: EvaluationCases, rows: np.ndarray) -> torch.Tensor:
    """(2, R) int64: (row of the batch, true item row) of the given cases."""
    owner = row_numbers(np.diff(cases.truth_offsets)[rows])
    return torch.from_numpy(np.stack([owner, cases.truth[truth_positions(cases, rows)]]).astype(np.int64))


def ndcg(
    model: Model, features: Features, cases: EvaluationCases, trends: TrendLog | TrendSnapshot, batch_size: int
) -> np.ndarray:
    """(n,) NDCG@10 of each case; full catalog, seen items excluded, ties against the model."""
    values = np.zeros(len(cases))
    at = moments(cases, features.description["refresh_minutes"])
    was_training = model.training
    model.eval()
    device = next(iter(model.state_dict().values()), torch.empty(0)).device

    def score(part: tuple[np.ndarray, Batch]) -> None:
        rows, batch = part[0], part[1].to(device)
        scores = exclude(model.scores(batch), batch.seen).cpu()
        pairs = truth_pairs(cases, rows)
        _, ranks = rank(scores, pairs, HEADLINE_K)
        num_true = np.diff(cases.truth_offsets)[rows]
        values[rows] = ndcg_at(TrueRanks(pairs[0].numpy(), ranks.numpy(), num_true), HEADLINE_K)

    parts = batches(features.log, cases, trends, model.channels, at, batch_size, model.max_history)
    run_in_threads(parts, score, MAX_THREADS if device.type == "cpu" else 1)
    model.train(was_training)
    return values
