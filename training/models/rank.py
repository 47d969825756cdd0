"""From scores to ranks: seen items out, ties against the model.

Legend: B batch, N item rows, k list length, R true items of the batch.
"""

from __future__ import annotations

import torch
from torch import Tensor

from features.vocabulary import PAD
from training.models.base import EXCLUDED


def exclude(scores_BN: Tensor, seen: Tensor) -> Tensor:
    """Scores with padding and seen items at -inf. `seen` is (2, S): (row, item row)."""
    scores_BN = scores_BN.clone()
    scores_BN[:, PAD] = EXCLUDED
    scores_BN[seen[0], seen[1]] = EXCLUDED
    return scores_BN


def _keys(scores_BN: Tensor, truth: Tensor) -> Tensor:
    """(B, N) int64 that order like (score, not true, earlier in the vocabulary): a total order."""
    if torch.isnan(scores_BN).any():
        raise ValueError("a model scored NaN")
    bits = (scores_BN.float() + 0.0).contiguous().view(torch.int32).long()
    ordered = torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits)
    size = scores_BN.shape[1]
    order = torch.arange(size - 1, -1, -1, device=scores_BN.device)
    keys = (ordered * 2 + 1) * 2**24 + order
    keys[truth[0], truth[1]] -= 2**24
    return keys


def rank(scores_BN: Tensor, truth: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The best k of each row, and the rank of every true item over the full catalogue.

    Args:
        scores_BN: excluded items at -inf.
        truth: (2, R): (row, item row).

    Returns:
        (B, k) item rows, PAD where the catalogue is exhausted; (R,) ranks from 1. Among equal scores
        true items come last; other equals keep the vocabulary's order.
    """
    keys = _keys(scores_BN, truth)
    top = keys.topk(min(k, keys.shape[1]), dim=1).indices
    exhausted = scores_BN.gather(1, top) == EXCLUDED
    true_keys = keys[truth[0], truth[1]]
    ranks = torch.empty(len(true_keys), dtype=torch.int64)
    for begin in range(0, len(true_keys), 1024):  # bounds memory when a case has hundreds of true items
        part = slice(begin, begin + 1024)
        ranks[part] = (keys[truth[0, part]] > true_keys[part, None]).sum(dim=1) + 1
    return top.masked_fill(exhausted, PAD), ranks
