"""Champion and candidate scored now, on the same cases, from their artifacts: no stored numbers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from experiments.bootstrap import Difference, paired
from features.featurize import build_log
from features.sequences import Cases, Log, batches, next_cases, window_cases
from features.store import Features
from features.trends import TrendLog
from serving.recommender import Recommender
from training import validate
from training.metrics import NOT_RANKED, TrueRanks
from training.metrics import ndcg as ndcg_at

HEADLINE = 10


def window_start(features: Features, recommenders: list[Recommender]) -> int:
    """When judging may begin: after the cut, and after the last event that either was fitted on."""
    return max([features.cut_us, *(one.manifest["fit_until_us"] for one in recommenders)])


def cases_from(features: Features, start_us: int) -> dict[str, Cases]:
    """The cases of both targets from a moment on; the last window that fits is asked for."""
    until = features.description["until_us"]
    return {
        "window": window_cases(features.log, start_us, features.description["window_days"], until),
        "next": next_cases(features.log, start_us, until),
    }


def case_scores(
    recommender: Recommender,
    features: Features,
    cases: Cases,
    events: pd.DataFrame,
    users: pd.DataFrame,
    size: int,
) -> np.ndarray:
    """(n,) NDCG@10 of each case, read through the artifact's own vocabulary and encoders.

    An item that the artifact does not know ranks last.
    """
    own = recommender.vocabulary
    log = build_log(events, users, own, recommender.artifact.config["encoders"])
    row = np.append(0, own.indices(features.vocabulary.ids))
    truth = row[cases.truth]
    asked = replace(cases, truth=truth, context=_context(log, cases))
    trends = TrendLog(log.items, log.times, log.known, len(own))
    ranks = np.zeros(len(truth), dtype=np.int64)
    at = validate.moments(cases, features.description["refresh_minutes"])
    model = recommender.model
    for rows, batch in batches(log, asked, trends, model.channels, at, size, model.max_history):
        positions = validate.truth_positions(asked, rows)
        _, found = recommender.rank(batch, validate.truth_pairs(asked, rows), HEADLINE)
        ranks[positions] = found.numpy()
    ranks[truth == 0] = NOT_RANKED
    sizes = np.diff(cases.truth_offsets)
    return ndcg_at(TrueRanks(np.repeat(np.arange(len(cases)), sizes), ranks, sizes), HEADLINE)


def _context(log: Log, cases: Cases) -> np.ndarray:
    """(n, K) what each request states, in the artifact's own encoding; nothing where nobody has asked."""
    return np.where(cases.event[:, None] >= 0, log.context[cases.event], 0)


def compare(
    candidate: Path, champion: Path, features: Features, events: pd.DataFrame, users: pd.DataFrame,
    size: int, seed: int, resamples: int, level: float,
) -> dict:  # fmt: skip
    """Paired evidence of both targets.

    Returns:
        {"start_us", "targets": {target: {"users", "cases", "candidate", "champion", "difference", ...}}}; a
        target without cases is left out.
    """
    recommenders = [Recommender.load(candidate), Recommender.load(champion)]
    start = window_start(features, recommenders)
    found = {}
    for target, cases in cases_from(features, start).items():
        if not len(cases):
            continue
        ours, theirs = (case_scores(one, features, cases, events, users, size) for one in recommenders)
        difference = paired(ours, theirs, cases.user, seed, resamples, level)
        found[target] = _described(difference, ours, theirs, cases, features)
    return {"start_us": start, "targets": found}


def _described(difference: Difference, ours, theirs, cases: Cases, features: Features) -> dict:
    cold = cases.end == features.log.offsets[cases.user]
    return {
        "users": len(np.unique(cases.user)),
        "cases": len(cases),
        "candidate": float(ours.mean()),
        "champion": float(theirs.mean()),
        **{key: float(value) for key, value in vars(difference).items()},
        "slices": {
            name: {"cases": int(mask.sum()), "candidate": float(ours[mask].mean()), "champion": float(theirs[mask].mean())}
            for name, mask in (("cold", cold), ("warm", ~cold))
            if mask.any()
        },
    }  # fmt: skip
