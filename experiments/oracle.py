"""STAGE oracle: rank the simulator's test cases by its true preferences: what no model can beat."""

from __future__ import annotations

import argparse
import sys

import numpy as np
import pandas as pd
import torch

from config import params
from config.command import UserError, exits_cleanly
from config.paths import FEATURES, INGESTED, METRICS
from data.simulate import Oracle
from experiments.evaluate import RANKED, catalogue, headline, provenance_of, table, write
from experiments.evaluation.measure import measure
from experiments.evaluation.slices import Segments
from features import feature_files
from features.feature_files import Features
from features.sequences import EvaluationCases
from training import validation
from training.models.ranking import exclude, rank

LABEL = "oracle"


def rank_cases(oracle: Oracle, features: Features, cases: EvaluationCases, days: int, size: int) -> pd.DataFrame:
    """The rankings table of one target, by true preference."""
    ids = features.vocabulary.ids
    position = {item: column for column, item in enumerate(oracle.item_ids)}
    columns = np.array([position[item] for item in ids])
    ranked = np.zeros((len(cases), RANKED), dtype=np.int64)
    ranks = np.zeros(len(cases.truth), dtype=np.int64)
    for begin in range(0, len(cases), size):
        rows = np.arange(begin, min(begin + size, len(cases)))
        start, end = features.log.offsets[cases.user[rows]], cases.end[rows]
        rowed = [features.log.items[a:b] for a, b in zip(start, end, strict=True)]
        histories = [[ids[item - 1] for item in history if item] for history in rowed]
        users = [features.users[user] for user in cases.user[rows]]
        if cases.target == "horizon":
            true = oracle.horizon_scores(users, int(cases.time[rows[0]]), days, histories)
        else:
            true = oracle.scores(users, cases.time[rows], histories, _devices(features, cases.context[rows]))
        scores = torch.full((len(rows), len(ids) + 1), float("-inf"))
        scores[:, 1:] = torch.from_numpy(np.ascontiguousarray(true[:, columns], dtype=np.float32))
        seen = np.concatenate([np.stack([np.full(len(h), r), h]) for r, h in enumerate(rowed)], axis=1)
        top, found = rank(
            exclude(scores, torch.from_numpy(seen.astype(np.int64))),
            validation.truth_pairs(cases, rows),
            RANKED,
        )
        ranked[rows, : top.shape[1]] = top.numpy()
        ranks[validation.truth_positions(cases, rows)] = found.numpy()
    return table(features, cases, ranked, ranks)


def _devices(features: Features, context: np.ndarray) -> list[str] | None:
    """The device that each request states, where devices were kept."""
    for column, encoder in enumerate(features.description["encoders"]["context"]):
        if encoder["column"] == "device":
            return [encoder["values"][max(row - 1, 0)] for row in context[:, column]]
    return None


@exits_cleanly
def main(argv: list[str] | None = None) -> int:
    argparse.ArgumentParser(prog="python -m experiments.oracle", description=__doc__).parse_args(argv)
    settings = params.load()
    path = INGESTED / "oracle.npz"
    if not path.exists():
        raise UserError(f"{path} is missing: only the simulator's true preferences are known")
    features = feature_files.load(FEATURES / "test")
    oracle = Oracle.load(path)
    days, size = features.description["horizon_days"], settings.train.eval_batch_size
    segments = Segments.of(settings.segments.plain(), features)
    tables = [
        rank_cases(oracle, features, cases, days, size).assign(segments=segments.column(features, cases))
        for cases in validation.cases(features).values()
    ]
    rankings = pd.concat(tables, ignore_index=True)
    measured = measure(rankings, catalogue(features), settings.seed, settings.evaluate.resamples, settings.evaluate.k)
    facts = {
        "label": LABEL, "model": LABEL, "params": {}, "fit_seconds": None, "baseline": False, "learned": False,
        "oracle": True, "targets": measured, "segments": segments.meanings(),
        **provenance_of(features, settings, "python -m experiments.oracle"),
    }  # fmt: skip
    write(LABEL, rankings, facts, catalogue(features))
    print(f"oracle: {headline(measured)} -> {METRICS}/{LABEL}.json")
    return 0


if __name__ == "__main__":
    sys.exit(main())
