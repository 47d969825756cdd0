"""The part of a score that follows the item's trends: a weighted sum of their logarithms, weights by question.

Legend: Q questions, T moments, C channels, N item rows, M candidates.
"""

from __future__ import annotations

import torch
from torch import Tensor


class _AddTrends(torch.autograd.Function):
    """scores + weights @ trends[moment], moment by moment: (Q, C, N) never exists."""

    @staticmethod
    def forward(ctx, scores: Tensor, weights: Tensor, trends: Tensor, moment: Tensor) -> Tensor:
        order = torch.argsort(moment, stable=True)
        moments, counts = torch.unique_consecutive(moment[order], return_counts=True)
        ctx.groups = list(zip(moments.tolist(), order.split(counts.tolist()), strict=True))
        ctx.save_for_backward(weights, trends)
        total = scores.clone()
        if bool((moment[1:] >= moment[:-1]).all()):  # as batches of cases are: each group is one piece
            pieces = zip(ctx.groups, total.split(counts.tolist()), weights.split(counts.tolist()), strict=True)
            for (at, _), piece, of_piece in pieces:
                piece.addmm_(of_piece, trends[at].to(weights.dtype))
            return total
        for at, rows in ctx.groups:
            total.index_add_(0, rows, weights[rows] @ trends[at].to(weights.dtype))
        return total

    @staticmethod
    def backward(ctx, gradient: Tensor):
        weights, trends = ctx.saved_tensors
        of_weights = torch.empty_like(weights)
        for at, rows in ctx.groups:
            of_weights[rows] = gradient[rows] @ trends[at].to(weights.dtype).T
        return gradient, of_weights, None, None


def add_trends(scores: Tensor, weights: Tensor, trends: Tensor, moment: Tensor) -> Tensor:
    """(Q, N) scores + for each question its (C,) weights times the (C, N) trends of its moment.

    Args:
        scores: (Q, N).
        weights: (Q, C).
        trends: (T, C, N), without gradient.
        moment: (Q,) rows of `trends`.
    """
    if len(trends) == 1:
        return torch.addmm(scores, weights, trends[0].to(weights.dtype))
    return _AddTrends.apply(scores, weights, trends, moment)


def pair_trends(weights: Tensor, trends: Tensor, moment: Tensor, candidates: Tensor) -> Tensor:
    """(Q, M): the same term for each question's own (Q, M) candidates."""
    if len(trends) == 1:  # as in serving; reads each candidate's channels in one piece
        at_candidates = trends[0].T.index_select(0, candidates.reshape(-1)).view(*candidates.shape, -1)  # (Q, M, C)
    else:
        at_candidates = trends.transpose(1, 2)[moment[:, None], candidates]
    return torch.einsum("qmc,qc->qm", at_candidates.to(weights.dtype), weights)
