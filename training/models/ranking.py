"""From scores to ranks: seen items are excluded, ties count against the model.

Legend: B batch, N item rows, k list length, R true items of the batch.
"""

from __future__ import annotations

import torch
from torch import Tensor

from features.vocabulary import PAD
from training.models.base import EXCLUDED

RUN_BYTES = 128 * 8  # flags that are summed as one run of 64-bit words
MAX_TRUE_ROWS = 1024  # true items compared with a whole row each at a time: bounds memory where a case has hundreds


def exclude(scores_BN: Tensor, seen: Tensor, rows_BN: Tensor | None = None) -> Tensor:
    """Scores with padding and the (2, S) seen pairs (row, item row) at -inf.

    `rows_BN` is the item row of each score; without it, column j is item row j.
    """
    if rows_BN is not None:
        return scores_BN.masked_fill(is_seen(rows_BN, seen), EXCLUDED)
    scores_BN = scores_BN.clone()
    scores_BN[:, PAD] = EXCLUDED
    scores_BN[seen[0], seen[1]] = EXCLUDED
    return scores_BN


def is_seen(rows_BM: Tensor, seen: Tensor) -> Tensor:
    """(B, M) whether an item row is PAD or among the (2, S) pairs of its row."""
    step = int(rows_BM.max()) + 1
    inside = seen[1] < step
    pairs = torch.arange(len(rows_BM), device=rows_BM.device)[:, None] * step + rows_BM
    return (rows_BM == PAD) | torch.isin(pairs, (seen[0] * step + seen[1])[inside])


def rank(scores_BN: Tensor, truth: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The best k of each row, and the rank of every true item over the full catalog.

    Args:
        scores_BN: excluded items at -inf.
        truth: (2, R): (row, item row).

    Returns:
        (B, k) item rows, PAD where the catalog is exhausted; (R,) ranks from 1. Among equal scores
        true items come last; other equals keep the vocabulary's order.

    Raises:
        ValueError: a score is NaN.
    """
    scores_BN = scores_BN.float()
    best, top = scores_BN.topk(min(k + 1, scores_BN.shape[1]), dim=1)
    if best[:, 0].isnan().any():  # topk puts NaN first
        raise ValueError("a model scored NaN")
    best, top = best[:, :k], _order_ties(scores_BN, truth, best, top)[:, :k]
    return top.masked_fill(best == EXCLUDED, PAD), _ranks(scores_BN, truth)


def _order_ties(scores_BN: Tensor, truth: Tensor, best: Tensor, top: Tensor) -> Tensor:
    """`top` with equal scores in order. topk leaves their order open, also at the end of the list."""
    tied = ((best[:, 1:] == best[:, :-1]) & (best[:, 1:] != EXCLUDED)).any(dim=1)
    rows = tied.nonzero()[:, 0]
    if len(rows):
        place = torch.full((len(tied),), -1, device=top.device).index_put(
            (rows,), torch.arange(len(rows), device=top.device)
        )
        inside = place[truth[0]] >= 0
        keys = _keys(scores_BN[rows], torch.stack([place[truth[0][inside]], truth[1][inside]]))
        top[rows] = keys.topk(top.shape[1], dim=1).indices
    return top


def _keys(scores_BN: Tensor, truth: Tensor) -> Tensor:
    """(B, N) int64 keys that order by (score, not true, earlier in the vocabulary): a total order."""
    bits = (scores_BN + 0.0).contiguous().view(torch.int32).long()  # -0.0 becomes 0.0
    ordered = torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits)
    size = scores_BN.shape[1]
    order = torch.arange(size - 1, -1, -1, device=scores_BN.device)
    keys = (ordered * 2 + 1) * 2**24 + order
    keys[truth[0], truth[1]] -= 2**24
    return keys


def _ranks(scores_BN: Tensor, truth: Tensor) -> Tensor:
    """(R,) how many items of its row score at least as much, less the true ones of equal score that follow it."""
    row, item = truth
    if not len(row):
        return torch.empty(0, dtype=torch.int64)
    own = scores_BN[row, item]
    if torch.equal(row, torch.arange(len(scores_BN), device=row.device)):  # one true item each: no row is copied
        at_least = _count_at_least(scores_BN, own)
    else:
        parts = [
            _count_at_least(scores_BN[r], o)
            for r, o in zip(row.split(MAX_TRUE_ROWS), own.split(MAX_TRUE_ROWS), strict=True)
        ]
        at_least = torch.cat(parts)
    return at_least.cpu() - _equal_and_after(row.cpu(), item.cpu(), own.cpu())


def _count_at_least(scores_RN: Tensor, bound_R: Tensor) -> Tensor:
    """(R,) int64 how many of a row are at least the bound.

    torch widens each flag to eight bytes to sum them. Read as words of eight flags, of which at most 128 are summed, no
    byte overflows into the next, and there is an eighth to sum.
    """
    size, length = scores_RN.shape
    flags = torch.empty(size, -(-length // RUN_BYTES) * RUN_BYTES, dtype=torch.bool, device=scores_RN.device)
    flags[:, length:] = False
    torch.ge(scores_RN, bound_R[:, None], out=flags[:, :length])
    words = flags.view(torch.int64).view(size, -1, RUN_BYTES // 8).sum(dim=2)
    return words.view(torch.uint8).sum(dim=1, dtype=torch.int64)


def _equal_and_after(row: Tensor, item: Tensor, score: Tensor) -> Tensor:
    """(R,) how many true items of the same row and score stand later in the vocabulary."""
    order = item.argsort(descending=True, stable=True)
    order = order[score[order].argsort(stable=True)]
    order = order[row[order].argsort(stable=True)]
    same = (row[order].diff() == 0) & (score[order][1:] == score[order][:-1])
    position = torch.arange(len(row))
    start = torch.cat([position[:1], torch.where(same, 0, position[1:])]).cummax(dim=0).values
    after = torch.empty_like(position)
    after[order] = position - start
    return after
