"""How far two artifacts list the same items for the newest requests, each as it would have answered them.

Legend: n cases.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from experiments.evaluation.scoring import score
from features.sequences import Cases, next_cases
from features.store import Features
from serving.worker.recommender import Recommender


def newest_cases(features: Features, count: int) -> Cases:
    """Before each of the newest events, whatever cut they follow: the live page as it was asked for."""
    every = next_cases(features.log, 0, features.description["until_us"])
    newest = np.argsort(every.time, kind="stable")[-count:]
    return every.take(np.sort(newest))


def lists_of(
    recommenders: Mapping[str, Recommender], features: Features, cases: Cases, events: pd.DataFrame, users: pd.DataFrame,
    size: int,
) -> dict[str, np.ndarray]:  # fmt: skip
    """Role -> (n, 10) rows of the present catalogue, -1 where a list is shorter."""
    asked = {"next": cases}
    return {role: score(one, features, asked, events, users, size)["next"].lists for role, one in recommenders.items()}


def overlap(theirs: np.ndarray, ours: np.ndarray) -> np.ndarray:
    """(n,) share of each of their (n, 10) lists that ours holds, too; NaN where theirs is empty."""
    shown = theirs >= 0
    held = (theirs[:, :, None] == ours[:, None, :]).any(axis=2) & shown
    sizes = shown.sum(axis=1)
    return np.where(sizes > 0, held.sum(axis=1) / np.maximum(sizes, 1), np.nan)
