"""Layers that the networks share: item vectors, the context of a request, and item trends in the scores.

Legend: Q queries, P targets, N item rows, M candidates, V content width, D embedding width, C trend channels,
T moments.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from training.models.base import Sizes
from training.models.query import NUM_BUCKETS, Query, count_bucket, time_bucket


class ItemTable(nn.Module):
    """(N, D) item vectors: an id embedding plus a linear map of the content, so that rare items borrow from others."""

    def __init__(self, sizes: Sizes, embedding_dim: int) -> None:
        super().__init__()
        self._frozen: Tensor | None = None
        self.ids = nn.Embedding(sizes.num_items, embedding_dim, padding_idx=0)
        self.from_content = nn.Linear(sizes.content_width, embedding_dim, bias=False) if sizes.content_width else None
        nn.init.normal_(self.ids.weight, std=0.05)
        if self.from_content is not None:
            nn.init.normal_(self.from_content.weight, std=0.05)

    def forward(self, content: Tensor) -> Tensor:
        """(N, D) of the (N, V) item features."""
        if self._frozen is not None:
            return self._frozen
        vectors = self.ids.weight
        return vectors if self.from_content is None else vectors + self.from_content(content)

    def freeze(self, content: Tensor) -> None:
        """Compute the vectors once: they do not depend on the request."""
        self._frozen = self(content)


class ContextEncoder(nn.Module):
    """(Q, D) sum of embeddings of what is known of a request beside the items of its history.

    Time since the last event, number of events, hour, weekday, user traits, request context.
    """

    def __init__(self, sizes: Sizes, embedding_dim: int) -> None:
        super().__init__()
        rows = [NUM_BUCKETS, NUM_BUCKETS, 24, 7, *sizes.trait_sizes, *sizes.context_sizes]
        self.tables = nn.ModuleList(_table(size, embedding_dim) for size in rows)
        self._frozen: tuple[Tensor, Tensor] | None = None

    def forward(self, query: Query) -> Tensor:
        rows = [time_bucket(query.since), count_bucket(query.length), query.hour, query.weekday]
        rows += [*query.traits.T, *query.context.T]
        table, first_row = self._frozen or self._one_table()
        return functional.embedding(torch.stack(rows, dim=1) + first_row, table).sum(dim=1)

    def freeze(self) -> None:
        """Join the tables once: they do not depend on the request."""
        self._frozen = self._one_table()

    def _one_table(self) -> tuple[Tensor, Tensor]:
        """All tables below one another, and the row at which each begins."""
        weights = [cast(nn.Embedding, table).weight for table in self.tables]
        first_row = torch.tensor([0, *map(len, weights[:-1])], device=weights[0].device).cumsum(0)
        return torch.cat(weights), first_row


def _table(rows: int, embedding_dim: int) -> nn.Embedding:
    table = nn.Embedding(rows, embedding_dim)
    nn.init.normal_(table.weight, std=0.1)
    return table


def add_trends(scores: Tensor, weights: Tensor, trends: Tensor, moment: Tensor) -> Tensor:
    """(Q, N) scores plus, for each query, its (C,) weights times the (C, N) trends of its moment.

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
    """(Q, M): the same term for each query's own (Q, M) candidates."""
    if len(trends) == 1:  # as in serving; reads each candidate's channels in one piece
        at_candidates = trends[0].T.index_select(0, candidates.reshape(-1)).view(*candidates.shape, -1)  # (Q, M, C)
    else:
        at_candidates = trends.transpose(1, 2)[moment[:, None], candidates]
    return torch.einsum("qmc,qc->qm", at_candidates.to(weights.dtype), weights)


class _AddTrends(torch.autograd.Function):
    """scores + weights @ trends[moment], moment by moment, so that (Q, C, N) is never held."""

    @staticmethod
    def forward(ctx, scores: Tensor, weights: Tensor, trends: Tensor, moment: Tensor) -> Tensor:
        order = torch.argsort(moment, stable=True)
        moments, counts = torch.unique_consecutive(moment[order], return_counts=True)
        ctx.groups = list(zip(moments.tolist(), order.split(counts.tolist()), strict=True))
        ctx.save_for_backward(weights, trends)
        total = scores.clone()
        if bool((moment[1:] >= moment[:-1]).all()):  # batches of cases are ordered by moment: each group is one slice
            pieces = zip(ctx.groups, total.split(counts.tolist()), weights.split(counts.tolist()), strict=True)
            for (at, _), piece, piece_weights in pieces:
                piece.addmm_(piece_weights, trends[at].to(weights.dtype))
            return total
        for at, rows in ctx.groups:
            total.index_add_(0, rows, weights[rows] @ trends[at].to(weights.dtype))
        return total

    @staticmethod
    def backward(ctx, gradient: Tensor):
        weights, trends = ctx.saved_tensors
        weights_gradient = torch.empty_like(weights)
        for at, rows in ctx.groups:
            weights_gradient[rows] = gradient[rows] @ trends[at].to(weights.dtype).T
        return gradient, weights_gradient, None, None
