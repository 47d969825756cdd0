"""A causal transformer over histories: state p has read the first p events, and nothing after.

Legend: B batch, L history, D width, H heads.
"""

from __future__ import annotations

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
        """(B, L + 1, D) states of every prefix of every history."""
        events = functional.embedding(query.items, item_vectors) * len(self.start) ** 0.5 + self.gaps(
            time_bucket(query.gaps)
        )
        start = self.start.expand(len(events), 1, -1)
        states = self.dropout(torch.cat([start, events], dim=1))
        for block in self.blocks:
            states = block(states)
        return self.norm(states)


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
        states = states + self.dropout(self._attend(self.norm_attention(states)))
        return states + self.dropout(self.forward_layer(self.norm_forward(states)))

    def _attend(self, states: Tensor) -> Tensor:
        size, length, width = states.shape
        heads = self.project(states).view(size, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        query, key, value = heads.unbind(0)
        mixed = functional.scaled_dot_product_attention(query, key, value, attn_mask=self._bias(length))
        return self.out(mixed.transpose(1, 2).reshape(size, length, width))

    def _bias(self, length: int) -> Tensor:
        """(1, H, L, L) by distance; -inf towards the future."""
        place = torch.arange(length, device=self.distance.weight.device)
        apart = place[:, None] - place
        bias = self.distance(count_bucket(apart)).masked_fill((apart < 0)[..., None], float("-inf"))
        return bias.permute(2, 0, 1)[None]
