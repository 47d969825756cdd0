"""Rank the simulator's test cases by its true preferences, which no model can beat."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import torch

from config import params
from config.command import UserError
from config.paths import INGESTED
from data.simulator.simulation import Oracle
from experiments.evaluation.cases import RANKED_LENGTH
from experiments.evaluation.measure import measure
from experiments.evaluation.metrics_files import provenance_of
from experiments.evaluation.ranking import rankings_table
from experiments.evaluation.slices import SegmentSlices
from features.feature_files import Features
from features.sequences import EvaluationCases
from training import validation
from training.models.ranking import exclude, rank

LABEL = "oracle"


def rank_cases(oracle: Oracle, features: Features, cases: EvaluationCases, batch_size: int) -> pd.DataFrame:
    """The rankings table of one target, by true preference."""
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


def evaluate_oracle(
    features: Features, items: pd.DataFrame, settings: params.Params
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Rankings of both targets, and the content of the metrics file.

    Raises:
        UserError: the dataset is not simulated.
    """
    path = INGESTED / "oracle.npz"
    if not path.exists():
        raise UserError(f"{path} does not exist: true preferences are known only for simulated data")
    oracle, segments = Oracle.load(path), SegmentSlices.of(settings.segments.plain(), features)
    tables = [
        rank_cases(oracle, features, cases, settings.train.eval_batch_size).assign(
            segments=segments.column(features, cases)
        )
        for cases in validation.cases(features).values()
    ]
    rankings = pd.concat(tables, ignore_index=True)
    metrics = {
        "label": LABEL,
        "model": LABEL,
        "params": {},
        "fit_seconds": None,
        "baseline": False,
        "learned": False,
        "oracle": True,
        "targets": measure(rankings, items, settings.seed, settings.evaluate.resamples, settings.evaluate.k),
        "segments": segments.meanings(),
        **provenance_of(features, settings, "python -m experiments.evaluate --oracle"),
    }
    return rankings, metrics
