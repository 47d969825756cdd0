"""Metrics of the recommended lists beyond accuracy: coverage, concentration, popularity, diversity, personalization.

Shapes: C cases, K list length, I known items, U users, R resamples. Lists hold item rows of the catalog, -1 where
empty.
"""

from __future__ import annotations

import numpy as np

from experiments.evaluation.bootstrap import MAX_WEIGHTS, percentile_bounds, resample_weights
from experiments.evaluation.cases import Catalog


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
    entries = [_users_by_item(lists[:, :k]) for lists in seeds]
    draws = []
    for block in resample_weights(users, resamples, seed):
        shared = np.mean([_shared_items(block, *entry) for entry in entries], axis=0)
        pairs = k * (block.sum(axis=1) ** 2 - np.einsum("ru,ru->r", block, block))
        draws.append(np.divide(shared, pairs, out=np.full(len(pairs), np.nan), where=pairs > 0))
    low, high = percentile_bounds(1 - np.concatenate(draws)[:, None])
    return float(low[0]), float(high[0])


def _users_by_item(top: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The user of each (user, item) entry sorted by item, where each item starts, and (U,) list lengths."""
    user, place = np.nonzero(top >= 0)
    item = top[user, place]
    order = np.argsort(item, kind="stable")
    starts = np.flatnonzero(np.append(True, np.diff(item[order]) > 0)) if len(item) else np.zeros(0, np.int64)
    return user[order], starts, (top >= 0).sum(axis=1)


def _shared_items(block: np.ndarray, user: np.ndarray, starts: np.ndarray, length: np.ndarray) -> np.ndarray:
    """(r,) sum over ordered pairs of distinct users of the product of their weights times the items they share."""
    if not len(user):
        return np.zeros(len(block))
    rows = max(1, MAX_WEIGHTS // len(user))
    parts = [np.add.reduceat(block[at : at + rows, user], starts, axis=1) for at in range(0, len(block), rows)]
    squares = np.concatenate([np.einsum("ri,ri->r", part, part) for part in parts])
    return squares - (block * block) @ length


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
