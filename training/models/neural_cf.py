"""Neural collaborative filtering (He et al. 2017, NeuMF) whose user is a history, not an id.

Legend: B histories, L length, Q queries, P targets, M candidates, D embedding width.
"""

from __future__ import annotations

from functools import partial
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from config.validation import Count
from training.models.base import Sizes, register
from training.models.layers import ContextEncoder, ItemTable, add_trends, pair_trends
from training.models.network import Network, NetworkHyperparameters
from training.models.query import NUM_BUCKETS, Query, count_bucket, time_bucket

MAX_HIDDEN_CELLS = 2**22  # query-item pairs whose hidden layer is held at once


class NeuralCFHyperparameters(NetworkHyperparameters):
    name: Literal["neural_cf"]
    hidden_dim: Annotated[int, Field(ge=2)]
    loss: Literal["sampled_softmax", "bce"]  # bce as in the paper
    num_negatives: Count  # sampled per event
    alpha: Annotated[float, Field(ge=0, le=1)]  # of the negatives: 0 samples items evenly, 1 by popularity


@register
class NeuralCF(Network[NeuralCFHyperparameters]):
    """score = w · (user ∘ item) + MLP([user, item]) + item bias + trend weights · log trends.

    The first layer of the MLP is linear in the user and in the item, so each side passes it once and only the sum is
    formed per pair. The user is built from events strictly before the query, so a positive is never in its own history.
    """

    name = "neural_cf"
    hyperparameters_type = NeuralCFHyperparameters

    def __init__(self, hyperparameters: NeuralCFHyperparameters, sizes: Sizes) -> None:
        super().__init__(hyperparameters, sizes)
        embedding_dim, hidden_dim = hyperparameters.embedding_dim, hyperparameters.hidden_dim
        self.items = ItemTable(sizes, embedding_dim)
        self.history_items = nn.Embedding(sizes.num_items, embedding_dim, padding_idx=0)
        nn.init.normal_(self.history_items.weight, std=0.05)
        self.gaps = nn.Embedding(NUM_BUCKETS, embedding_dim)
        nn.init.normal_(self.gaps.weight, std=0.05)
        self.history = PooledHistory(embedding_dim, hyperparameters.num_heads)
        self.context = ContextEncoder(sizes, embedding_dim)
        self.dropout = nn.Dropout(hyperparameters.dropout)
        self.norm = nn.LayerNorm(embedding_dim)
        self.factor = nn.Linear(embedding_dim, embedding_dim)
        self.user_hidden = nn.Linear(embedding_dim, hidden_dim)
        self.item_hidden = nn.Linear(embedding_dim, hidden_dim, bias=False)
        relu = partial(nn.ReLU, inplace=True)  # its input is the largest tensor here, and nobody else reads it
        self.tail = nn.Sequential(relu(), nn.Linear(hidden_dim, hidden_dim // 2), relu(), nn.Linear(hidden_dim // 2, 1))
        self.item_bias = nn.Embedding(sizes.num_items, 1)
        nn.init.zeros_(self.item_bias.weight)
        self.trend_weights = nn.Linear(embedding_dim, len(self.channels))

    def user(self, query: Query) -> Tensor:
        """(Q, D) from the visible history and the context."""
        events = self.history_items(query.items) + self.gaps(time_bucket(query.gaps))
        events = self.dropout(events * (query.items != 0)[..., None])
        states = self.history(events * events.shape[-1] ** 0.5)[query.row, query.position]
        return self.norm(states + self.context(query))

    def score_all(self, query: Query) -> Tensor:
        user = self.user(query)
        return add_trends(self.match(user), self.trend_weights(user), query.trends, query.moment)

    def match(self, user: Tensor, rows: Tensor | slice = slice(None)) -> Tensor:
        """(Q, M) scores without the trends, of users (Q, D) and the items of these (M,) rows."""
        item = self.items(self.content)[rows]
        scores = torch.addmm(self.item_bias.weight[rows, 0], self.factor(user), item.T)
        user_hidden, item_hidden = self.user_hidden(user), self.item_hidden(item)
        part_rows = max(1, MAX_HIDDEN_CELLS // (len(item_hidden) * user_hidden.shape[1]))
        deep = [self.tail(part[:, None] + item_hidden).squeeze(-1) for part in user_hidden.split(part_rows)]
        return scores + torch.cat(deep)

    def score_pairs(self, query: Query, rows: Tensor, candidates: Tensor) -> Tensor:
        user = self.user(query)
        trends = pair_trends(self.trend_weights(user)[rows], query.trends, query.moment[rows], candidates)
        return self.match_pairs(user, rows, candidates) + trends

    def match_pairs(self, user: Tensor, rows: Tensor, candidates: Tensor) -> Tensor:
        """(P, M) as `match`, of each target's own (P, M) candidates; (P,) rows of the users."""
        item = self.items(self.content)
        flat = torch.einsum("pmd,pd->pm", functional.embedding(candidates, item), self.factor(user)[rows])
        hidden = functional.embedding(candidates, self.item_hidden(item))
        deep = self.tail(self.user_hidden(user)[rows][:, None] + hidden).squeeze(-1)
        return flat + deep + self.item_bias(candidates).squeeze(-1)


class PooledHistory(nn.Module):
    """(B, L + 1, D) learned averages of every prefix. Each head weighs an event by how many events came after it.

    Position-weighted pooling in place of NeuMF's user embedding. Each head has its own slice of the embedding.
    """

    def __init__(self, embedding_dim: int, num_heads: int) -> None:
        super().__init__()
        self.weights = nn.Embedding(NUM_BUCKETS, num_heads)
        nn.init.zeros_(self.weights.weight)
        self.out = nn.Linear(embedding_dim, embedding_dim)

    def forward(self, events: Tensor) -> Tensor:
        num_rows, length, width = events.shape
        position = torch.arange(length + 1, device=events.device)
        after = position[:, None] - 1 - position[:-1]  # (L + 1, L): events read since, negative if not yet read
        logits = self.weights(count_bucket(after)).masked_fill((after < 0)[..., None], float("-inf"))
        shares = torch.softmax(logits[1:], dim=1)  # the empty prefix has nothing to share
        shares = torch.cat([torch.zeros_like(logits[:1]), shares])
        heads = events.view(num_rows, length, shares.shape[2], -1)
        return self.out(torch.einsum("plh,blhd->bphd", shares, heads).reshape(num_rows, length + 1, width))
