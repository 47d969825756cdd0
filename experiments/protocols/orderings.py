"""How alike two orderings of the same models are, and how sure one can be of it.

Legend: M models, R resamples, U users, P pairs of models.
"""

from __future__ import annotations

import numpy as np

from experiments.evaluation.bootstrap import Totals, bounds, weights


def ranks(means: np.ndarray) -> np.ndarray:
    """(M,) 1 for the highest mean; equals share the better rank."""
    return 1 + (means[None, :] > means[:, None]).sum(axis=1)


def tau(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """(...) Kendall's tau-a of (..., M) means: pairs in the same order less pairs in the other, over all pairs.

    1 where both orders agree, -1 where one is the other reversed; a pair that is equal in either counts 0.
    """
    first, second = np.triu_indices(one.shape[-1], k=1)
    signs = [np.sign(means[..., first] - means[..., second]) for means in (one, other)]
    return (signs[0] * signs[1]).mean(axis=-1)


def tau_interval(one: Totals, other: Totals, seed: int, resamples: int) -> tuple[float, float]:
    """95% interval of tau: users are drawn with all their cases, the same users under both protocols.

    Args:
        one, other: sums and counts, each (U, M), of the same users.
    """
    drawn = [(block @ one.sums, block @ one.counts, block @ other.sums, block @ other.counts)
             for block in weights(len(one.sums), resamples, seed)]  # fmt: skip
    sums, counts, other_sums, other_counts = (np.concatenate(part) for part in zip(*drawn, strict=True))
    low, high = bounds(tau(_mean(sums, counts), _mean(other_sums, other_counts))[:, None])
    return float(low[0]), float(high[0])


def _mean(sums: np.ndarray, counts: np.ndarray) -> np.ndarray:
    return np.divide(sums, counts, out=np.full(sums.shape, np.nan), where=counts > 0)
