"""What an artifact reaches on evaluation cases, read through its own vocabulary and encoders.

Shapes: n cases, N item rows, k list length.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from features.encode import Batch
from features.feature_files import Features
from features.featurize import build_log
from features.sequences import EvaluationCases, Log, batches, horizon_cases, next_item_cases
from features.trends import TrendLog
from serving.worker.recommender import Recommender
from training import validation
from training.metrics import NOT_RANKED, TrueRanks
from training.metrics import ndcg as ndcg_at
from training.threads import side_by_side

HEADLINE = 10


@dataclass(frozen=True)
class ScoredCases:
    """One artifact on the cases of one target.

    Attributes:
        ndcg: (n,) NDCG@10.
        lists: (n, 10) rows of the present catalogue (an item's row in `features.vocabulary`, less 1), -1 where a list
            is shorter, or shows what is no longer there.
    """

    ndcg: np.ndarray
    lists: np.ndarray


def cases_from(features: Features, start_us: int) -> dict[str, EvaluationCases]:
    """The cases of both targets from a moment on; targets without any are left out."""
    until = features.description["until_us"]
    every = {
        "horizon": horizon_cases(features.log, start_us, features.description["horizon_days"], until),
        "next_item": next_item_cases(features.log, start_us, until),
    }
    return {target: cases for target, cases in every.items() if len(cases)}


def score(
    recommender: Recommender,
    features: Features,
    cases: Mapping[str, EvaluationCases],
    events: pd.DataFrame,
    users: pd.DataFrame,
    size: int,
) -> dict[str, ScoredCases]:
    """Rank the cases of each target, `size` at a time. An item that the artifact does not know ranks last."""
    log = _log_read_by(recommender, features, events, users)
    trends = TrendLog(log.items, log.times, log.known, len(recommender.vocabulary))
    own, ids = recommender.vocabulary, features.vocabulary.ids
    to_own = np.append(0, own.indices(ids))
    to_present = np.append(0, features.vocabulary.indices(own.ids)) - 1
    return {
        target: _score(recommender, log, trends, every, to_own, to_present, features.description, size)
        for target, every in cases.items()
    }


def _log_read_by(recommender: Recommender, features: Features, events: pd.DataFrame, users: pd.DataFrame) -> Log:
    """The timeline as this artifact reads it; the one at hand where it reads as the present features do."""
    encoders = recommender.artifact.config["encoders"]
    if recommender.vocabulary.ids == features.vocabulary.ids and encoders == features.description["encoders"]:
        return features.log
    return build_log(events, users, recommender.vocabulary, encoders)


def _score(
    recommender, log, trends, cases: EvaluationCases, to_own, to_present, description: dict, size: int
) -> ScoredCases:
    truth, model = to_own[cases.truth], recommender.model
    asked = replace(cases, truth=truth, context=_context(log, cases))
    ranks = np.zeros(len(truth), dtype=np.int64)
    lists = np.zeros((len(cases), HEADLINE), dtype=np.int64)
    at = validation.moments(cases, description["refresh_minutes"])

    def work(part: tuple[np.ndarray, Batch]) -> None:
        rows, batch = part
        top, found = recommender.rank(batch, validation.truth_pairs(asked, rows), HEADLINE)
        ranks[validation.truth_positions(asked, rows)] = found.numpy()
        lists[rows, : top.shape[1]] = top.numpy()

    side_by_side(batches(log, asked, trends, model.channels, at, size, model.max_history), work)
    ranks[truth == 0] = NOT_RANKED
    sizes = np.diff(cases.truth_offsets)
    ndcg = ndcg_at(TrueRanks(np.repeat(np.arange(len(cases)), sizes), ranks, sizes), HEADLINE)
    return ScoredCases(ndcg, to_present[lists])


def _context(log: Log, cases: EvaluationCases) -> np.ndarray:
    """(n, K) what each request states, in the artifact's own encoding; nothing where nobody has asked."""
    return np.where(cases.event[:, None] >= 0, log.context[cases.event], 0)
