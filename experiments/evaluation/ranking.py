"""Rank the full catalog for evaluation cases, with an exported artifact, through the code that answers live requests.

Shapes: n cases, T true items of all cases together, k list length.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import torch

from data.columns import DAY
from data.simulator.simulation import Oracle
from experiments.evaluation.cases import HEADLINE, RANKED_LENGTH
from features.encode import Batch
from features.feature_files import Features
from features.fit import build_log
from features.sequences import EvaluationCases, InteractionLog, batches, horizon_cases, next_item_cases
from features.trends import ALL, TrendLog, TrendSnapshot
from serving.worker.recommender import Recommender
from training import validation
from training.metrics import NOT_RANKED, TrueRanks, ndcg
from training.models.ranking import exclude, rank
from training.threads import run_in_threads


def rank_cases(
    recommender: Recommender,
    features: Features,
    cases: EvaluationCases,
    trends: TrendLog | TrendSnapshot,
    batch_size: int,
) -> pd.DataFrame:
    """Rank the cases of one target with an artifact that shares the features' vocabulary; see `rankings_table`."""
    refresh = features.description["refresh_minutes"]
    return rankings_table(
        features, cases, *_rank(recommender, features.log, cases, trends, refresh, batch_size, RANKED_LENGTH)
    )


def _rank(
    recommender: Recommender, log: InteractionLog, cases: EvaluationCases, trends: TrendLog | TrendSnapshot,
    refresh_minutes: int, batch_size: int, k: int,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """(n, k) item rows in rank order, 0 where the catalog is exhausted, and (T,) ranks of the true items."""
    lists = np.zeros((len(cases), k), dtype=np.int64)
    ranks = np.zeros(len(cases.truth), dtype=np.int64)
    model = recommender.model

    def rank_batch(part: tuple[np.ndarray, Batch]) -> None:
        rows, batch = part
        top, true_ranks = recommender.rank(batch, validation.truth_pairs(cases, rows), k)
        lists[rows, : top.shape[1]] = top.numpy()
        ranks[validation.truth_positions(cases, rows)] = true_ranks.numpy()

    moments = validation.moments(cases, refresh_minutes)
    run_in_threads(batches(log, cases, trends, model.channels, moments, batch_size, model.max_history), rank_batch)
    return lists, ranks


def rank_by_preference(oracle: Oracle, features: Features, cases: EvaluationCases, batch_size: int) -> pd.DataFrame:
    """Rank the cases of one target by the simulator's true preferences, which no model can beat; see `rankings_table`."""
    ids = features.vocabulary.ids
    position = {item: column for column, item in enumerate(oracle.item_ids)}
    columns = np.array([position[item] for item in ids])
    lists = np.zeros((len(cases), RANKED_LENGTH), dtype=np.int64)
    ranks = np.zeros(len(cases.truth), dtype=np.int64)
    for begin in range(0, len(cases), batch_size):
        rows = np.arange(begin, min(begin + batch_size, len(cases)))
        starts, ends = features.log.offsets[cases.user[rows]], cases.end[rows]
        item_rows = [features.log.items[start:end] for start, end in zip(starts, ends, strict=True)]
        histories = [[ids[item - 1] for item in history if item] for history in item_rows]
        users = [features.users[user] for user in cases.user[rows]]
        if cases.target == "horizon":
            days = features.description["horizon_days"]
            true = oracle.horizon_scores(users, int(cases.time[rows[0]]), days, histories)
        else:
            true = oracle.scores(users, cases.time[rows], histories, _devices(features, cases.context[rows]))
        scores = torch.full((len(rows), len(ids) + 1), float("-inf"))
        scores[:, 1:] = torch.from_numpy(np.ascontiguousarray(true[:, columns], dtype=np.float32))
        seen = np.concatenate([np.stack([np.full(len(h), row), h]) for row, h in enumerate(item_rows)], axis=1)
        pairs = validation.truth_pairs(cases, rows)
        top, true_ranks = rank(exclude(scores, torch.from_numpy(seen.astype(np.int64))), pairs, RANKED_LENGTH)
        lists[rows, : top.shape[1]] = top.numpy()
        ranks[validation.truth_positions(cases, rows)] = true_ranks.numpy()
    return rankings_table(features, cases, lists, ranks)


def _devices(features: Features, context: np.ndarray) -> list[str] | None:
    """The device of each request; None if the dataset has no devices."""
    for column, encoder in enumerate(features.description["encoders"]["context"]):
        if encoder["column"] == "device":
            return [encoder["values"][max(row - 1, 0)] for row in context[:, column]]
    return None


def rankings_table(features: Features, cases: EvaluationCases, lists: np.ndarray, ranks: np.ndarray) -> pd.DataFrame:
    """The rankings table of one target, one row per case, with ids in place of rows.

    Args:
        lists: (n, k) item rows in rank order, 0 where a list is shorter.
        ranks: (T,) rank of each true item.
    """
    ids = np.array(["", *features.vocabulary.ids], dtype=object)
    users = np.array(features.users, dtype=object)[cases.user]
    splits = cases.truth_offsets[1:-1]
    truth = [list(part) for part in np.split(ids[cases.truth], splits)[: len(cases)]]  # without cases there is one part
    case_ids = cases.target + ":" + users + ":" + cases.time.astype(str)
    if cases.target == "next_item":  # a user may have several cases at one time: their items tell them apart
        case_ids = [f"{name}:{','.join(sorted(items))}" for name, items in zip(case_ids, truth, strict=True)]
    _, owner, activity = np.unique(cases.user, return_inverse=True, return_counts=True)
    return pd.DataFrame(
        {
            "case_id": case_ids,
            "user_id": users,
            "target": cases.target,
            "time": pd.Series(cases.time).astype("datetime64[us]").dt.tz_localize("UTC"),
            "history_length": (cases.end - features.log.offsets[cases.user]).astype(np.int32),
            "activity": activity[owner].astype(np.int32),
            "ranked": [[item for item in row if item] for row in ids[lists]],
            "truth": truth,
            "true_ranks": [part.astype(np.int32) for part in np.split(ranks, splits)[: len(cases)]],
        }
    )


def catalog_items(features: Features) -> pd.DataFrame:
    """The items that are ranked, with what the metrics read about them: the table items.parquet."""
    counts = features.trend_log().at(np.array([features.cut_us]), [ALL])[0, 1:, 0]
    first = np.full(len(features.vocabulary), np.iinfo(np.int64).max)
    np.minimum.at(first, features.past.items, features.past.times)
    return pd.DataFrame(
        {
            "item_id": features.vocabulary.ids,
            "popularity": counts.astype(np.int64),
            "vector": list(features.item_features[1:]),
            "age_days": (features.cut_us - first[1:]) / DAY,  # since the item's first event
            "catalog": True,
        }
    )


@dataclass(frozen=True)
class ScoredCases:
    """What one artifact reaches on the cases of one target.

    Attributes:
        ndcg: (n,) NDCG@10.
        lists: (n, 10) rows of the present catalog (an item's row in `features.vocabulary`, less 1), -1 where a list
            is shorter or shows an item that is no longer in the catalog.
    """

    ndcg: np.ndarray
    lists: np.ndarray


def cases_since(features: Features, start_us: int) -> dict[str, EvaluationCases]:
    """The cases of both targets from a moment on; a target without any is left out."""
    until = features.description["until_us"]
    cases = {
        "horizon": horizon_cases(features.log, start_us, features.description["horizon_days"], until),
        "next_item": next_item_cases(features.log, start_us, until),
    }
    return {target: part for target, part in cases.items() if len(part)}


def score_cases(
    recommender: Recommender, features: Features, cases: Mapping[str, EvaluationCases], events: pd.DataFrame,
    users: pd.DataFrame, batch_size: int,
) -> dict[str, ScoredCases]:  # fmt: skip
    """Score an artifact on the cases of each target, read through its own vocabulary and encoders.

    An item that the artifact does not know ranks last.
    """
    own, present = recommender.vocabulary, features.vocabulary
    encoders = recommender.artifact.config["encoders"]
    same = own.ids == present.ids and encoders == features.description["encoders"]
    log = features.log if same else build_log(events, users, own, encoders)
    trends = TrendLog(log.items, log.times, log.known, len(own))
    to_own = np.append(0, own.indices(present.ids))
    to_present = np.append(0, present.indices(own.ids)) - 1
    refresh = features.description["refresh_minutes"]
    scored = {}
    for target, part in cases.items():
        # The request's context in the artifact's own encoding; 0 for a case that rests on no event.
        context = np.where(part.event[:, None] >= 0, log.context[part.event], 0)
        translated = replace(part, truth=to_own[part.truth], context=context)
        lists, ranks = _rank(recommender, log, translated, trends, refresh, batch_size, HEADLINE)
        ranks[translated.truth == 0] = NOT_RANKED
        sizes = np.diff(part.truth_offsets)
        truth = TrueRanks(np.repeat(np.arange(len(part)), sizes), ranks, sizes)
        scored[target] = ScoredCases(ndcg(truth, HEADLINE), to_present[lists])
    return scored
