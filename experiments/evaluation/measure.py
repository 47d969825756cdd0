"""Measure one model from its rankings: every published metric with its interval, per target and per slice.

`horizon` has one case per user. `next_item` averages over cases, and also reports the mean of user means. With several
seeds each case is averaged over the seeds first, then users are resampled. docs/evaluation.md describes all of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy import sparse

from experiments.evaluation.bootstrap import (
    UserTotals,
    intervals,
    json_number,
    percentile_bounds,
    resample_weights,
)
from experiments.evaluation.cases import (
    HEADLINE,
    PRIMARY,
    RANKED_LENGTH,
    TARGETS,
    Catalog,
    RankedCases,
    collect_cases,
    sliced_metrics,
)
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
    resamples: int,
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
        UserError: the seeds hold different cases.
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
    accurate = _average_over_seeds([accuracy(one.truth, ks) for one in cases.seeds])
    of_lists = _average_over_seeds([metrics_per_case(one.lists, catalog, HEADLINE) for one in cases.seeds])
    slices = sliced_metrics(cases, catalog, HEADLINE, SLICE_METRICS)
    columns = {("", key): column for key, column in (accurate | of_lists).items()}
    columns |= {(name, key): column for name, part in slices.items() for key, column in part.items()}
    totals, keys = (
        UserTotals.from_cases(np.stack(list(columns.values()), axis=1), cases.user, cases.num_users),
        list(columns),
    )
    if by_user:
        own = UserTotals(totals.sums[:, : len(accurate)], totals.counts[:, : len(accurate)])
        totals = totals.join(own.averaged_by_user())
        keys += [("", key + BY_USER) for key in accurate]
    entries: dict[str, dict[str, Any]] = {}
    # All columns in one bootstrap, so that they share their resamples.
    for (name, key), column in zip(keys, zip(*intervals(totals, seed, resamples), strict=True), strict=True):
        entries.setdefault(name, {})[key] = _entry(*column)
    return {
        "users": cases.num_users,
        "cases": len(cases.user),
        "metrics": entries[""] | _measure_lists(cases, catalog, seed, resamples, ks),
        "slices": {name: _count(part, cases) | {"metrics": entries[name]} for name, part in slices.items()},
    }


def _entry(mean: float, low: float, high: float) -> dict[str, float | None]:
    return {"mean": json_number(mean), "low": json_number(low), "high": json_number(high)}


def _average_over_seeds(each_seed: list[dict[str, Any]]) -> dict[str, Any]:
    return {key: np.mean([values[key] for values in each_seed], axis=0) for key in each_seed[0]}


def _measure_lists(cases: RankedCases, catalog: Catalog, seed: int, resamples: int, ks: list[int]) -> dict[str, Any]:
    values = _average_over_seeds([metrics_of_all_lists(one.lists, catalog, ks) for one in cases.seeds])
    last = [one.lists[cases.last] for one in cases.seeds]
    mean = float(np.mean([personalization(lists, HEADLINE, len(catalog.ids)) for lists in last]))
    entry = _entry(mean, *personalization_bounds(last, HEADLINE, seed, resamples))
    named = {key: {"value": json_number(value)} for key, value in values.items()}
    return named | {f"personalization@{HEADLINE}": entry}


def _count(values: dict[str, np.ndarray], cases: RankedCases) -> dict[str, int]:
    inside = ~np.isnan(next(iter(values.values())))
    return {"users": len(np.unique(cases.user[inside])), "cases": int(inside.sum())}


# --- metrics of the recommended lists beyond accuracy
#
# Shapes: C cases, K list length, I known items, U users, R resamples. Lists hold item rows of the catalog, -1 where empty.


def count_items(lists: np.ndarray, k: int, num_items: int) -> np.ndarray:
    """(I,) number of (C, K) lists that hold each item among their first k."""
    top = lists[:, :k].ravel()
    return np.bincount(top[top >= 0], minlength=num_items)


def coverage(counts: np.ndarray, member: np.ndarray) -> float:
    """Share of the catalog that is in any list."""
    return float((counts[member] > 0).mean())


def gini(counts: np.ndarray, member: np.ndarray) -> float:
    """Gini index of how often each catalog item is recommended; items that are never recommended count as 0.

    G = sum_i (2i - n - 1) x_i / (n sum_i x_i) with counts x in ascending order: 0 where all n items are recommended
    equally often, (n - 1) / n where one item is recommended alone, NaN without any recommendation.
    """
    x = np.sort(counts[member])
    n = len(x)
    return float(((2 * np.arange(1, n + 1) - n - 1) * x).sum() / (n * x.sum())) if x.sum() else float("nan")


def list_means(lists: np.ndarray, item_values: np.ndarray, k: int) -> np.ndarray:
    """(C,) mean of a value per item over the first k of each list; NaN for an empty list."""
    top = lists[:, :k]
    present = top >= 0
    total = np.where(present, item_values[top], 0.0).sum(axis=1)
    return np.divide(total, present.sum(axis=1), out=np.full(len(top), np.nan), where=present.any(axis=1))


def diversity(lists: np.ndarray, unit: np.ndarray, k: int) -> np.ndarray:
    """(C,) intra-list diversity: 1 - mean cosine of the content vectors of all pairs among the first k.

    An item without content has cosine 0 with every other item. NaN where a list holds fewer than two items. With unit
    vectors the sum over ordered pairs is |sum v|^2 - sum |v|^2, so no pair is formed.
    """
    padded = np.vstack([unit, np.zeros((1, unit.shape[1]))])  # row -1 stands for an empty place
    values = np.empty(len(lists))
    for start in range(0, len(lists), 4096):
        top = lists[start : start + 4096, :k]
        total, own = np.zeros((len(top), unit.shape[1])), np.zeros(len(top))
        for place in range(top.shape[1]):
            vectors = padded[top[:, place]]
            total += vectors
            own += np.einsum("cd,cd->c", vectors, vectors)
        n = (top >= 0).sum(axis=1)
        pairs = np.where(n > 1, n * (n - 1), np.nan)
        values[start : start + 4096] = 1 - (np.einsum("cd,cd->c", total, total) - own) / pairs
    return values


def personalization(lists: np.ndarray, k: int, num_items: int) -> float:
    """1 - mean overlap of the first k of two users' lists, over all pairs of users; (U, K), one list per user.

    The overlap is |A and B| / k. An item in f of the lists is shared by f (f - 1) / 2 pairs, so the mean over all pairs
    is sum_i f_i (f_i - 1) / (k U (U - 1)). NaN with fewer than two users.
    """
    users = len(lists)
    f = count_items(lists, k, num_items).astype(float)
    return float(1 - (f * (f - 1)).sum() / (k * users * (users - 1))) if users > 1 else float("nan")


def personalization_bounds(seeds: list[np.ndarray], k: int, seed: int, resamples: int) -> tuple[float, float]:
    """95% interval of personalization, averaged over the (U, K) lists of each seed, by resampling users.

    A user who is drawn twice is not compared with themself: a pair of distinct users counts as often as the product of
    their draws.
    """
    users = len(seeds[0])
    if users < 2:
        return float("nan"), float("nan")
    shown = [_shown_items(lists[:, :k]) for lists in seeds]
    draws = []
    for block in resample_weights(users, resamples, seed):
        for weights in np.array_split(block, k):  # (r, U); fewer at a time, since a list holds k items
            own = weights**2
            shared = np.mean(
                [((items @ weights.T) ** 2).sum(axis=0) - own @ items.sum(axis=0) for items in shown], axis=0
            )
            pairs = k * (weights.sum(axis=1) ** 2 - own.sum(axis=1))
            draws.append(np.divide(shared, pairs, out=np.full(len(pairs), np.nan), where=pairs > 0))
    low, high = percentile_bounds(1 - np.concatenate(draws)[:, None])
    return float(low[0]), float(high[0])


def _shown_items(top: np.ndarray) -> sparse.csr_array:
    """(items shown, U) matrix of ones where a user's list holds an item."""
    user, place = np.nonzero(top >= 0)
    names, item = np.unique(top[user, place], return_inverse=True)
    return sparse.csr_array((np.ones(len(user)), (item, user)), shape=(len(names), len(top)))


def metrics_per_case(lists: np.ndarray, catalog: Catalog, k: int) -> dict[str, np.ndarray]:
    """The list metrics that are means over cases, (C,) each, by published key."""
    values = {
        f"popularity_percentile@{k}": list_means(lists, catalog.percentile, k),
        f"novelty@{k}": list_means(lists, catalog.novelty, k),
    }
    if catalog.unit is not None:
        values[f"diversity@{k}"] = diversity(lists, catalog.unit, k)
    return values


def metrics_of_all_lists(lists: np.ndarray, catalog: Catalog, ks: list[int]) -> dict[str, float]:
    """The metrics of all lists together, by published key. They are no means and have no interval."""
    values = {}
    for k in ks:
        counts = count_items(lists, k, len(catalog.ids))
        values[f"coverage@{k}"] = coverage(counts, catalog.member)
        values[f"gini@{k}"] = gini(counts, catalog.member)
    return values
