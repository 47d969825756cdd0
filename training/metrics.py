"""Ranking metrics, from the ranks that a full-catalog ranking gave the true items.

Shapes: C cases, T true items of all cases together. Relevance is binary. Ranks start at 1 and count ties against the
true item. Every metric is (C,) float64; NaN marks a case without a true item.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from features.ragged import row_numbers

NOT_RANKED = int(np.iinfo(np.int32).max)  # the rank of a true item that is not in the ranking: below every other
MRR_DEPTH = 100


@dataclass(frozen=True)
class TrueRanks:
    """The ranks of the true items of every case."""

    case: np.ndarray  # (T,) row of the case that each true item belongs to
    rank: np.ndarray  # (T,) its 1-based rank
    size: np.ndarray  # (C,) number of true items of each case

    @classmethod
    def of(cls, ranks: Sequence[Sequence[int]]) -> TrueRanks:
        """One sequence of ranks per case; ValueError where a rank is below 1."""
        size = np.fromiter((len(case) for case in ranks), np.int64, len(ranks))
        rank = np.concatenate([np.asarray(case, np.int64) for case in ranks] or [np.zeros(0, np.int64)])
        if len(rank) and rank.min() < 1:
            raise ValueError(f"a rank is {rank.min()}; ranks start at 1")
        return cls(row_numbers(size), rank, size)

    @classmethod
    def single(cls, rank: np.ndarray) -> TrueRanks:
        """Cases of one true item each: (C,) ranks."""
        rank = np.asarray(rank)
        return cls(np.arange(len(rank)), rank, np.ones(len(rank), np.int64))

    def keep(self, mask: np.ndarray) -> TrueRanks:
        """The same cases and ranks, with only the true items where the (T,) mask is true."""
        case = self.case[mask]
        return TrueRanks(case, self.rank[mask], np.bincount(case, minlength=len(self.size)))

    def sum(self, weight: np.ndarray) -> np.ndarray:
        """(C,) sums of a (T,) weight over the true items of each case."""
        return np.bincount(self.case, weights=weight, minlength=len(self.size))


def recall(truth: TrueRanks, k: int) -> np.ndarray:
    """Recall@k = hits in the first k / min(k, |truth|): 1 is reachable however large the truth."""
    return _divide(truth.sum(truth.rank <= k), np.minimum(truth.size, k))


def hit_rate(truth: TrueRanks, k: int) -> np.ndarray:
    """HR@k = 1 where any true item is among the first k, else 0."""
    return _defined(truth.sum(truth.rank <= k) > 0, truth)


def ndcg(truth: TrueRanks, k: int) -> np.ndarray:
    """NDCG@k = sum over hits of 1 / log2(rank + 1), over the same sum for ranks 1..min(k, |truth|).

    Järvelin and Kekäläinen, 2002, with binary gains.
    """
    gain = np.where(truth.rank <= k, 1 / np.log2(truth.rank + 1.0), 0.0)
    ideal = np.concatenate([[0.0], np.cumsum(1 / np.log2(np.arange(1, k + 1) + 1.0))])
    return _divide(truth.sum(gain), ideal[np.minimum(truth.size, k)])


def mrr(truth: TrueRanks, k: int = MRR_DEPTH) -> np.ndarray:
    """MRR@k = 1 / rank of the best-placed true item, 0 where that lies below k."""
    best = np.full(len(truth.size), NOT_RANKED, np.int64)
    np.minimum.at(best, truth.case, truth.rank)
    return _defined(np.where(best <= k, 1 / best, 0.0), truth)


def average_precision(truth: TrueRanks, k: int) -> np.ndarray:
    """AP@k = sum over hits of (hits down to that rank / rank), divided by min(k, |truth|).

    Its mean over cases is MAP@k. Others divide by |truth| or by the number of hits; with min(k, |truth|), as in Recall@k
    and NDCG@k, a perfect list scores 1 and a missed item always costs.
    """
    order = np.lexsort((truth.rank, truth.case))
    first = np.cumsum(truth.size) - truth.size
    precision = np.empty(len(truth.rank))
    precision[order] = (np.arange(len(order)) - first[truth.case[order]] + 1) / truth.rank[order]
    return _divide(truth.sum(np.where(truth.rank <= k, precision, 0.0)), np.minimum(truth.size, k))


def accuracy(truth: TrueRanks, ks: Sequence[int]) -> dict[str, np.ndarray]:
    """Every metric above, each (C,), under its published key: "ndcg@10", ..., "mrr@100"."""
    by_name = {"ndcg": ndcg, "recall": recall, "hr": hit_rate, "map": average_precision}
    values = {f"{name}@{k}": metric(truth, k) for name, metric in by_name.items() for k in ks}
    return values | {f"mrr@{MRR_DEPTH}": mrr(truth)}


def _defined(values: np.ndarray, truth: TrueRanks) -> np.ndarray:
    return np.where(truth.size > 0, values, np.nan)


def _divide(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    return np.divide(numerator, denominator, out=np.full(len(numerator), np.nan), where=denominator > 0)


def geometric_mean(values: Iterable[float]) -> float:
    """Geometric mean of one metric over several targets: one percent of either counts the same, whatever their levels.

    It chooses the epoch, the trial, a hybrid's l2 and the gate's candidate. A value of 0 counts as 1e-6, so that the
    others still matter. 0 without targets.
    """
    logs = [math.log(value + 1e-6) for value in values]
    return math.exp(sum(logs) / len(logs)) if logs else 0.0
