"""A causal transformer over histories: state p has read the first p events, and nothing after.

Legend: B batch, L history, D embedding width, H heads.
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

    def __init__(self, embedding_dim: int, num_layers: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.start = nn.Parameter(torch.randn(embedding_dim) * 0.1)
        self.gaps = nn.Embedding(NUM_BUCKETS, embedding_dim)
        nn.init.normal_(self.gaps.weight, std=0.05)
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(CausalBlock(embedding_dim, num_heads, dropout) for _ in range(num_layers))
        self.norm = nn.LayerNorm(embedding_dim)

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

    def __init__(self, embedding_dim: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self._kept: dict[int, Tensor] | None = None  # biases by length, once they are frozen
        self._products: tuple[Tensor, Tensor, Tensor, Tensor] | None = None
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
        query, key, value = self._heads(self.project(self.norm_attention(states)))
        bias = self._biases(states.shape[1]).transpose(0, 1)[None]
        mixed = functional.scaled_dot_product_attention(query, key, value, bias)
        return self._feed(states + self.dropout(self.out(mixed.transpose(1, 2).reshape(states.shape))))

    def at(self, states: Tensor, position: Tensor) -> Tensor:
        """(B, D) of (B, L, D): what `forward` gives at one (B,) position each.

        One question a history: q · (K x + b) = (Kᵀ q) · x + a constant, which softmax does not see, and a mean of
        V x is V times a mean of x. So no key and no value is computed of any event.
        """
        size, length, width = map(int, states.shape)
        rows = torch.arange(size, device=states.device)
        seek, seek_bias, out, out_bias = self._folded()
        normed = self.norm_attention(states)
        sought = functional.linear(normed[rows, position], seek, seek_bias).view(size, self.num_heads, width)
        distance = self._biases(length)[position]
        shares = torch.softmax(torch.baddbmm(distance, sought, normed.transpose(1, 2)), dim=2)  # (B, H, L)
        mixed = functional.linear((shares @ normed).view(size, -1), out, out_bias)
        return self._feed(states[rows, position] + self.dropout(mixed))

    def freeze(self) -> None:
        """Keep what no history changes."""
        self._kept, self._products = {}, self._folded()

    def _folded(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Kᵀ Q / sqrt(D / H) and Kᵀ b by head, (H * D, D) and (H * D,); O V by head, (D, H * D), and O b + c, (D,)."""
        if self._products is not None:
            return self._products
        width = self.project.in_features
        ask, key, value = self.project.weight.view(3, self.num_heads, -1, width).unbind(0)  # (H, D / H, D) each
        ask_bias, _, value_bias = self.project.bias.view(3, self.num_heads, -1, 1).unbind(0)
        scaled = key.transpose(1, 2) / key.shape[1] ** 0.5
        out = self.out.weight.view(width, self.num_heads, -1).transpose(0, 1)  # (H, D, D / H)
        mixed = (out @ value).transpose(0, 1).reshape(width, -1)
        bias = self.out.weight @ value_bias.flatten() + self.out.bias
        return (scaled @ ask).flatten(0, 1), (scaled @ ask_bias).flatten(), mixed, bias

    def _heads(self, projected: Tensor) -> tuple[Tensor, ...]:
        """(B, L, 3 * D) as query, key and value, (B, H, L, D / H) each."""
        size, length, _ = projected.shape
        return projected.view(size, length, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4).unbind(0)

    def _feed(self, states: Tensor) -> Tensor:
        """(..., D) with the feed-forward layer added."""
        return states + self.dropout(self.forward_layer(self.norm_forward(states)))

    def _biases(self, length: int) -> Tensor:
        """(L, H, L) by the distance of each place to each; -inf towards the future."""
        if self._kept is not None and length in self._kept:
            return self._kept[length]
        place = torch.arange(length, device=self.distance.weight.device)
        apart = place[:, None] - place
        bias = self.distance(count_bucket(apart)).masked_fill((apart < 0)[..., None], float("-inf"))
        biases = bias.transpose(1, 2).contiguous()
        if self._kept is not None:
            self._kept[length] = biases
        return biases
