"""What the lists look like, whatever their accuracy: coverage, concentration, popularity, diversity,
personalization.

Shapes: C cases, K list length, I known items, U users, R resamples. Lists hold rows of the catalogue, -1
where empty.
"""

from __future__ import annotations

import numpy as np

from experiments.evaluation.bootstrap import BLOCK, bounds, weights
from experiments.evaluation.cases import Catalog


def counts(lists: np.ndarray, k: int, num_items: int) -> np.ndarray:
    """(I,) how many of the (C, K) lists hold each item among their first k."""
    top = lists[:, :k].ravel()
    return np.bincount(top[top >= 0], minlength=num_items)


def coverage(recommended: np.ndarray, member: np.ndarray) -> float:
    """Share of the catalogue that occurs in any list: items with a count above 0 / items of the catalogue."""
    return float((recommended[member] > 0).mean())


def gini(recommended: np.ndarray, member: np.ndarray) -> float:
    """Gini index of how often each item of the catalogue is recommended, items never recommended included.

    G = sum_i (2i - n - 1) x_i / (n sum_i x_i) with counts x ascending: 0 where all n items come equally
    often, (n - 1) / n where one item is all that is shown. NaN without any recommendation.
    """
    x = np.sort(recommended[member])
    n = len(x)
    return float(((2 * np.arange(1, n + 1) - n - 1) * x).sum() / (n * x.sum())) if x.sum() else float("nan")


def list_means(lists: np.ndarray, per_item: np.ndarray, k: int) -> np.ndarray:
    """(C,) mean of a per-item value over the first k of each list; NaN for an empty list."""
    top = lists[:, :k]
    there = top >= 0
    total = np.where(there, per_item[top], 0.0).sum(axis=1)
    return np.divide(total, there.sum(axis=1), out=np.full(len(top), np.nan), where=there.any(axis=1))


def diversity(lists: np.ndarray, unit: np.ndarray, k: int) -> np.ndarray:
    """(C,) intra-list diversity: 1 - mean cosine of the content of all pairs among the first k.

    An item without content has cosine 0 with every other. NaN where a list holds fewer than two items. With
    unit vectors the sum over ordered pairs is |sum v|^2 - sum |v|^2, so no pair is ever formed.
    """
    padded = np.vstack([unit, np.zeros((1, unit.shape[1]))])  # row -1: an empty place
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
    """1 - mean overlap of the first k of two users' lists, over all pairs of U users; one list per user, (U,
    K).

    Overlap is |A and B| / k. An item in f of the lists is shared by f (f - 1) / 2 pairs, so the mean over all
    pairs is exact: sum_i f_i (f_i - 1) / (k U (U - 1)). NaN with fewer than two users.
    """
    users = len(lists)
    f = counts(lists, k, num_items).astype(float)
    return float(1 - (f * (f - 1)).sum() / (k * users * (users - 1))) if users > 1 else float("nan")


def personalization_bounds(seeds: list[np.ndarray], k: int, seed: int, resamples: int) -> tuple[float, float]:
    """95% interval of personalization, averaged over the (U, K) lists of each seed, users resampled.

    A user drawn twice is not compared with themself: pairs of distinct users count by the product of their
    draws.
    """
    users = len(seeds[0])
    if users < 2:
        return float("nan"), float("nan")
    entries = [_entries(lists[:, :k]) for lists in seeds]
    draws = [
        _divide(np.mean([_shared(block, *entry) for entry in entries], axis=0), k * _pairs(block))
        for block in weights(users, resamples, seed)
    ]
    low, high = bounds(1 - np.concatenate(draws)[:, None])
    return float(low[0]), float(high[0])


def _entries(top: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Who is shown what, by item: the user of each (user, item), where each item starts, and list lengths
    (U,)."""
    user, place = np.nonzero(top >= 0)
    item = top[user, place]
    order = np.argsort(item, kind="stable")
    starts = np.flatnonzero(np.append(True, np.diff(item[order]) > 0)) if len(item) else np.zeros(0, np.int64)
    return user[order], starts, (top >= 0).sum(axis=1)


def _shared(block: np.ndarray, user: np.ndarray, starts: np.ndarray, length: np.ndarray) -> np.ndarray:
    """(r,) sum over ordered pairs of distinct users of their weights times the number of items they share."""
    if not len(user):
        return np.zeros(len(block))
    rows = max(1, BLOCK // len(user))
    parts = [np.add.reduceat(block[at : at + rows, user], starts, axis=1) for at in range(0, len(block), rows)]
    squares = np.concatenate([np.einsum("ri,ri->r", part, part) for part in parts])
    return squares - (block * block) @ length


def _divide(shared: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """NaN for a resample that drew one user over and over: it has no pairs."""
    return np.divide(shared, pairs, out=np.full(len(pairs), np.nan), where=pairs > 0)


def _pairs(block: np.ndarray) -> np.ndarray:
    return block.sum(axis=1) ** 2 - np.einsum("ru,ru->r", block, block)


def per_case(lists: np.ndarray, catalogue: Catalog, k: int) -> dict[str, np.ndarray]:
    """The list metrics that are means over cases, each (C,), under their published keys."""
    values = {
        f"popularity_percentile@{k}": list_means(lists, catalogue.percentile, k),
        f"novelty@{k}": list_means(lists, catalogue.novelty, k),
    }
    if catalogue.unit is not None:
        values[f"diversity@{k}"] = diversity(lists, catalogue.unit, k)
    return values


def over_cases(lists: np.ndarray, catalogue: Catalog, ks: list[int]) -> dict[str, float]:
    """The metrics of all lists together, which are no means and carry no interval."""
    values = {}
    for k in ks:
        recommended = counts(lists, k, len(catalogue.ids))
        values[f"coverage@{k}"] = coverage(recommended, catalogue.member)
        values[f"gini@{k}"] = gini(recommended, catalogue.member)
    return values
