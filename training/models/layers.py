"""Layers that the networks share: the history encoder, item vectors, the context of a request, and item trends.

Legend: B histories, L length, Q queries, P targets, N item rows, M candidates, V content width, D embedding width,
H heads, C trend channels, T moments.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from training.models.base import Sizes
from training.models.query import NUM_BUCKETS, Query, count_bucket, time_bucket

NARROW = 64  # items; matrix libraries sum so few columns in an order that depends on the row's place in the batch


class HistoryEncoder(nn.Module):
    """SASRec's backbone (Kang and McAuley 2018), pre-norm, with distances and time gaps instead of positions.

    A learned start token is the state of an empty history. Attention knows how many events lie between two (a learned
    bias per head on a base-2 scale, as in T5), so nothing depends on padding.
    """

    def __init__(self, embedding_dim: int, num_layers: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.start = nn.Parameter(torch.randn(embedding_dim) * 0.1)
        self.gaps = nn.Embedding(NUM_BUCKETS, embedding_dim)
        nn.init.normal_(self.gaps.weight, std=0.05)
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(CausalBlock(embedding_dim, num_heads, dropout) for _ in range(num_layers))
        self.norm = nn.LayerNorm(embedding_dim)

    def forward(self, query: Query, item_vectors: Tensor) -> Tensor:
        """(Q, D) the state that each query reads: after its history's first `position` events."""
        return self.norm(states_at(self.blocks, self._inputs(query, item_vectors), query, query.position))

    def _inputs(self, query: Query, item_vectors: Tensor) -> Tensor:
        """(B, L + 1, D) the start token and the events, before any block."""
        events = functional.embedding(query.items, item_vectors) * len(self.start) ** 0.5
        events = events + self.gaps(time_bucket(query.gaps))
        start = self.start.expand(len(events), 1, -1)
        return self.dropout(torch.cat([start, events], dim=1))


def states_at(blocks: nn.ModuleList, states: Tensor, query: Query, position: Tensor) -> Tensor:
    """(Q, D) the state at one (Q,) position for each query, after all blocks.

    Where each query has a history of its own, the last block computes only these states.
    """
    if query.one_per_history and len(blocks):
        return blocks[-1].at(apply_blocks(blocks[:-1], states), position)  # type: ignore[operator]
    return apply_blocks(blocks, states)[query.row, position]


def apply_blocks(blocks: Iterable[nn.Module], states: Tensor) -> Tensor:
    """(B, L, D) states of every prefix after these blocks."""
    for block in blocks:
        states = block(states)
    return states


class CausalBlock(nn.Module):
    """Self-attention and a feed-forward layer, each added to its input."""

    def __init__(self, embedding_dim: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self._frozen_biases: dict[int, Tensor] | None = None  # by length
        self._frozen_products: tuple[Tensor, Tensor, Tensor, Tensor] | None = None
        self.norm_attention, self.norm_forward = nn.LayerNorm(embedding_dim), nn.LayerNorm(embedding_dim)
        self.project = nn.Linear(embedding_dim, 3 * embedding_dim)
        self.out = nn.Linear(embedding_dim, embedding_dim)
        self.distance = nn.Embedding(NUM_BUCKETS, num_heads)
        nn.init.zeros_(self.distance.weight)
        self.forward_layer = nn.Sequential(
            nn.Linear(embedding_dim, 2 * embedding_dim), nn.GELU(), nn.Linear(2 * embedding_dim, embedding_dim)
        )
        self.dropout = nn.Dropout(dropout)

    def forward(self, states: Tensor) -> Tensor:
        """(B, L, D) of (B, L, D)."""
        projected = self.project(self.norm_attention(states))
        heads = projected.view(*states.shape[:2], 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        query, key, value = heads.unbind(0)  # (B, H, L, D / H) each
        bias = self._distance_biases(states.shape[1]).transpose(0, 1)[None]
        mixed = functional.scaled_dot_product_attention(query, key, value, bias)
        return self._feed_forward(states + self.dropout(self.out(mixed.transpose(1, 2).reshape(states.shape))))

    def at(self, states: Tensor, position: Tensor) -> Tensor:
        """(B, D) of (B, L, D): what `forward` gives at one (B,) position each.

        With one query per history, q · (K x + b) = (Kᵀ q) · x + a constant, which softmax ignores, and a mean of V x
        is V times a mean of x. So the keys and values of the events are never computed.
        """
        num_rows, length, width = map(int, states.shape)
        rows = torch.arange(num_rows, device=states.device)
        key_query, key_bias, out, out_bias = self._folded_products()
        normed = self.norm_attention(states)
        query = functional.linear(normed[rows, position], key_query, key_bias).view(num_rows, self.num_heads, width)
        distance = self._distance_biases(length)[position]
        shares = torch.softmax(torch.baddbmm(distance, query, normed.transpose(1, 2)), dim=2)  # (B, H, L)
        mixed = functional.linear((shares @ normed).view(num_rows, -1), out, out_bias)
        return self._feed_forward(states[rows, position] + self.dropout(mixed))

    def freeze(self) -> None:
        """Keep what does not depend on the history."""
        self._frozen_biases, self._frozen_products = {}, self._folded_products()

    def _folded_products(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Kᵀ Q / sqrt(D / H) and Kᵀ b by head, (H * D, D) and (H * D,); O V by head, (D, H * D), and O b + c, (D,)."""
        if self._frozen_products is not None:
            return self._frozen_products
        width = self.project.in_features
        query, key, value = self.project.weight.view(3, self.num_heads, -1, width).unbind(0)  # (H, D / H, D) each
        query_bias, _, value_bias = self.project.bias.view(3, self.num_heads, -1, 1).unbind(0)
        scaled = key.transpose(1, 2) / key.shape[1] ** 0.5
        out = self.out.weight.view(width, self.num_heads, -1).transpose(0, 1)  # (H, D, D / H)
        mixed = (out @ value).transpose(0, 1).reshape(width, -1)
        bias = self.out.weight @ value_bias.flatten() + self.out.bias
        return (scaled @ query).flatten(0, 1), (scaled @ query_bias).flatten(), mixed, bias

    def _feed_forward(self, states: Tensor) -> Tensor:
        """(..., D) with the feed-forward layer added."""
        return states + self.dropout(self.forward_layer(self.norm_forward(states)))

    def _distance_biases(self, length: int) -> Tensor:
        """(L, H, L) attention bias by the distance between two positions; -inf towards the future."""
        if self._frozen_biases is not None and length in self._frozen_biases:
            return self._frozen_biases[length]
        position = torch.arange(length, device=self.distance.weight.device)
        distance = position[:, None] - position
        bias = self.distance(count_bucket(distance)).masked_fill((distance < 0)[..., None], float("-inf"))
        biases = bias.transpose(1, 2).contiguous()
        if self._frozen_biases is not None:
            self._frozen_biases[length] = biases
        return biases


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
    """(Q, D) sum of embeddings of what is known of a request in addition to the items of its history.

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
    """(Q, N) scores plus, for each query, its (Q, C) weights times the (T, C, N) trends, at its (Q,) moment.

    Trends have no gradient.
    """
    if len(trends) == 1:
        of_moment = trends[0].to(weights.dtype)
        if of_moment.shape[1] < NARROW:
            return scores + (weights[:, :, None] * of_moment).sum(dim=1)
        return torch.addmm(scores, weights, of_moment)
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
