"""A causal transformer over histories: state p has read the first p events, and nothing after.

Legend: B batch, L history, D width, H heads.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional

from training.models.query import NUM_BUCKETS, Query, count_bucket, time_bucket


class HistoryEncoder(nn.Module):
    """SASRec's backbone (Kang and McAuley 2018), pre-norm, with distances and time gaps for positions.

    A learned start token makes the state of an empty history. Attention knows how many events apart two
    are (a learned bias per head on a base-2 scale, as in T5), so nothing depends on padding.
    """

    def __init__(self, width: int, blocks: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.start = nn.Parameter(torch.randn(width) * 0.1)
        self.gaps = nn.Embedding(NUM_BUCKETS, width)
        nn.init.normal_(self.gaps.weight, std=0.05)
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(CausalBlock(width, heads, dropout) for _ in range(blocks))
        self.norm = nn.LayerNorm(width)

    def forward(self, query: Query, item_vectors: Tensor) -> Tensor:
        """(Q, D) the state that each question reads: of its history's first `position` events."""
        return self.norm(states_at(self.blocks, self._events(query, item_vectors), query, query.position))

    def _events(self, query: Query, item_vectors: Tensor) -> Tensor:
        """(B, L + 1, D) the start token and the events, before any block."""
        events = functional.embedding(query.items, item_vectors) * len(self.start) ** 0.5 + self.gaps(
            time_bucket(query.gaps)
        )
        start = self.start.expand(len(events), 1, -1)
        return self.dropout(torch.cat([start, events], dim=1))


def in_turn(blocks: Iterable[nn.Module], states: Tensor) -> Tensor:
    """(B, L, D) states of every prefix after these blocks."""
    for block in blocks:
        states = block(states)
    return states


def states_at(blocks: nn.ModuleList, states: Tensor, query: Query, position: Tensor) -> Tensor:
    """(Q, D) the state at one (Q,) position for each question. Where each has a history of its own, the last block
    computes nothing else."""
    if query.one_each and len(blocks):
        return blocks[-1].at(in_turn(blocks[:-1], states), position)  # type: ignore[operator]
    return in_turn(blocks, states)[query.row, position]


class CausalBlock(nn.Module):
    """Self-attention and a feed-forward layer, each added to its input."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.norm_attention, self.norm_forward = nn.LayerNorm(width), nn.LayerNorm(width)
        self.project = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.distance = nn.Embedding(NUM_BUCKETS, heads)
        nn.init.zeros_(self.distance.weight)
        self.forward_layer = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
        self.dropout = nn.Dropout(dropout)

    def forward(self, states: Tensor) -> Tensor:
        """(B, L, D) of (B, L, D)."""
        query, key, value = self._heads(self.project(self.norm_attention(states)), 3)
        place = torch.arange(states.shape[1], device=states.device)
        return self._add(states, functional.scaled_dot_product_attention(query, key, value, self._bias(place)[None]))

    def at(self, states: Tensor, position: Tensor) -> Tensor:
        """(B, D) of (B, L, D): what `forward` gives at one (B,) position each."""
        own = states[torch.arange(len(states), device=states.device), position][:, None]
        width, weight, bias = states.shape[2], self.project.weight, self.project.bias
        (query,) = self._heads(functional.linear(self.norm_attention(own), weight[:width], bias[:width]), 1)
        key, value = self._heads(functional.linear(self.norm_attention(states), weight[width:], bias[width:]), 2)
        distance = self._bias(position, states.shape[1]).transpose(0, 1)[:, :, None]  # (B, H, 1, L)
        return self._add(own, functional.scaled_dot_product_attention(query, key, value, distance))[:, 0]

    def _heads(self, projected: Tensor, parts: int) -> tuple[Tensor, ...]:
        """(B, L, parts * D) as so many (B, H, L, D / H)."""
        size, length, _ = projected.shape
        return projected.view(size, length, parts, self.heads, -1).permute(2, 0, 3, 1, 4).unbind(0)

    def _add(self, states: Tensor, mixed: Tensor) -> Tensor:
        """States with what was attended to, and then the feed-forward layer, added."""
        states = states + self.dropout(self.out(mixed.transpose(1, 2).reshape(states.shape)))
        return states + self.dropout(self.forward_layer(self.norm_forward(states)))

    def _bias(self, place: Tensor, length: int | None = None) -> Tensor:
        """(H, P, L) by the distance of (P,) places to each of a history's; -inf towards the future."""
        apart = place[:, None] - (place if length is None else torch.arange(length, device=place.device))
        bias = self.distance(count_bucket(apart)).masked_fill((apart < 0)[..., None], float("-inf"))
        return bias.permute(2, 0, 1)
