"""Measure one model from its rankings: every published metric with its interval, per target and per slice.

`horizon` has one case per user. `next_item` averages over cases, with the mean of user means beside it. With several
seeds each case is averaged over the seeds first, then users are resampled. docs/evaluation.md describes all of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from experiments.evaluation.bootstrap import UserTotals, intervals, json_number
from experiments.evaluation.cases import HEADLINE, PRIMARY, RANKED_LENGTH, TARGETS, Catalog, RankedCases, collect_cases
from experiments.evaluation.list_metrics import (
    metrics_of_all_lists,
    metrics_per_case,
    personalization,
    personalization_bounds,
)
from experiments.evaluation.slices import sliced_metrics
from training.metrics import accuracy

KS = (5, 10, 20, 50, 100)
BY_USER = "_by_user"  # suffix of the mean of user means
SLICE_METRICS = (PRIMARY, f"recall@{HEADLINE}")

DEFINITIONS = {
    "recall": "hits in the first k / min(k, |truth|)",
    "hr": "share of cases with any hit in the first k",
    "ndcg": "sum over hits of 1/log2(rank+1), over the same sum for the ideal list of length min(k, |truth|)",
    "map": "sum over hits of (hits so far / rank), divided by min(k, |truth|)",
    "mrr": "1 / rank of the first hit, 0 beyond rank 100",
    "_by_user": "mean of user means, each user counting once",
    "coverage": "share of the catalog that is in the first k of any list",
    "gini": "inequality of how often catalog items are recommended: 0 if all equally often, near 1 if only a few",
    "popularity_percentile": "mean over the list of the share of the catalog with fewer events + half of equals",
    "novelty": "mean over the list of -log2(max(item's training events, 1) / all training events), bits",
    "diversity": "1 - mean cosine of the item content of all pairs in the first k",
    "personalization": "1 - mean of |A and B| / k over all pairs of users, each with their last list",
}


def measure(
    rankings: pd.DataFrame | Sequence[pd.DataFrame],
    items: pd.DataFrame,
    seed: int,
    resamples: int = 1000,
    k: Sequence[int] = KS,
) -> dict[str, Any]:
    """Measure one model on the targets that its rankings hold.

    Args:
        rankings: the rankings table, or one per seed of the same model on the same cases.
        items: the table of items.parquet.
        seed: of the bootstrap; use the same for all models that will be compared.
        k: list lengths, at most 100; the headline 10 is always added.

    Returns:
        Target -> {"users", "cases", "metrics": {key: {"mean", "low", "high"}}, "slices": {name: {"users", "cases",
        "metrics"}}}. Coverage and gini are {"value"}: they are no means and have no interval. A bound is None with
        fewer than two users.

    Raises:
        RankingsError: a table cannot be measured.
        ValueError: a value of k is out of range.
    """
    frames = [rankings] if isinstance(rankings, pd.DataFrame) else list(rankings)
    catalog, ks = Catalog.from_items(items), sorted({*k, HEADLINE})
    if not 1 <= ks[0] <= ks[-1] <= RANKED_LENGTH:
        raise ValueError(f"k is {list(k)}; expected values in [1, {RANKED_LENGTH}], the length of `ranked`")
    cases = {target: collect_cases(frames, target, catalog) for target in TARGETS}
    return {
        target: _measure_target(part, catalog, seed, resamples, ks, by_user=target == "next_item")
        for target, part in cases.items()
        if part is not None
    }


def _measure_target(
    cases: RankedCases, catalog: Catalog, seed: int, resamples: int, ks: list[int], by_user: bool
) -> dict[str, Any]:
    values = _average_over_seeds(
        [accuracy(one.truth, ks) | metrics_per_case(one.lists, catalog, HEADLINE) for one in cases.seeds]
    )
    slices = sliced_metrics(cases, catalog, HEADLINE, SLICE_METRICS)
    totals, keys = _totals(values, cases), list[Any](values)
    if by_user:
        accurate = [column for column, key in enumerate(keys) if _is_accuracy(key, ks)]
        own = UserTotals(totals.sums[:, accurate], totals.counts[:, accurate]).averaged_by_user()
        totals, keys = totals.join(own), keys + [keys[column] + BY_USER for column in accurate]
    for name, part in slices.items():
        totals, keys = totals.join(_totals(part, cases)), keys + [(name, key) for key in part]
    # All columns in one bootstrap, so that they share their resamples.
    columns = zip(*intervals(totals, seed, resamples), strict=True)
    entries = {key: _entry(*column) for key, column in zip(keys, columns, strict=True)}
    metrics = {key: entry for key, entry in entries.items() if isinstance(key, str)}
    return {
        "users": cases.num_users,
        "cases": len(cases.user),
        "metrics": metrics | _measure_lists(cases, catalog, seed, resamples, ks),
        "slices": {
            name: _count(part, cases) | {"metrics": {key: entries[name, key] for key in part}}
            for name, part in slices.items()
        },
    }


def _is_accuracy(key: str, ks: Sequence[int]) -> bool:
    return key == "mrr@100" or key in {f"{name}@{k}" for name in ("recall", "hr", "ndcg", "map") for k in ks}


def _entry(mean: float, low: float, high: float) -> dict[str, float | None]:
    return {"mean": json_number(mean), "low": json_number(low), "high": json_number(high)}


def _average_over_seeds(each_seed: list[dict[str, Any]]) -> dict[str, Any]:
    return {key: np.mean([values[key] for values in each_seed], axis=0) for key in each_seed[0]}


def _totals(values: dict[str, np.ndarray], cases: RankedCases) -> UserTotals:
    return UserTotals.from_cases(np.stack(list(values.values()), axis=1), cases.user, cases.num_users)


def _measure_lists(cases: RankedCases, catalog: Catalog, seed: int, resamples: int, ks: list[int]) -> dict[str, Any]:
    values = _average_over_seeds([metrics_of_all_lists(one.lists, catalog, ks) for one in cases.seeds])
    last = [one.lists[cases.last] for one in cases.seeds]
    mean = float(np.mean([personalization(lists, HEADLINE, len(catalog.ids)) for lists in last]))
    entry = _entry(mean, *personalization_bounds(last, HEADLINE, seed, resamples))
    return {key: {"value": json_number(value)} for key, value in values.items()} | {
        f"personalization@{HEADLINE}": entry
    }


def _count(values: dict[str, np.ndarray], cases: RankedCases) -> dict[str, int]:
    inside = ~np.isnan(next(iter(values.values())))
    return {"users": len(np.unique(cases.user[inside])), "cases": int(inside.sum())}
