"""How a model ages: what it reaches in the days after the cut at which it was fitted, never fitted again."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from experiments.evaluation.bootstrap import Totals, intervals
from experiments.evaluation.cases import align, true_ranks
from experiments.evaluation.measure import HEADLINE, number
from training.metrics import accuracy

PERIODS = 8  # of equal length, from the cut to the last case


def decay(frames: Sequence[pd.DataFrame], seed: int, resamples: int) -> list[dict]:
    """NDCG@10 of `next` by period after the cut: days, cases, users, mean and 95% interval by user.

    Weights are frozen at the cut while histories and trends go on, so a fall is what refitting would win back,
    or a harder period: compare models, not days. A period without cases is left out.

    Args:
        frames: the rankings of one model, one table per seed.
    """
    tables = align(frames, "next")
    if not len(tables[0]):
        return []
    values = np.mean([accuracy(true_ranks(table), [HEADLINE])[f"ndcg@{HEADLINE}"] for table in tables], axis=0)
    window = frames[0].loc[frames[0]["target"] == "window", "time"]
    time = tables[0]["time"]
    cut = window.min() if len(window) else time.min()
    days = (time - cut).dt.total_seconds().to_numpy() / 86_400
    edges = np.linspace(0, np.nextafter(days.max(), np.inf), PERIODS + 1)
    users, row = np.unique(tables[0]["user_id"].to_numpy(str), return_inverse=True)
    period = np.clip(np.searchsorted(edges, days, side="right") - 1, 0, PERIODS - 1)
    found = []
    for place in np.unique(period):
        there = period == place
        entry = intervals(Totals.of(values[there, None], row[there], len(users)), seed, resamples)
        found.append(
            {"from_day": edges[place], "to_day": edges[place + 1], "cases": int(there.sum()),
             "users": len(np.unique(row[there])), "mean": number(entry.mean[0]), "low": number(entry.low[0]),
             "high": number(entry.high[0])}
        )  # fmt: skip
    return found
