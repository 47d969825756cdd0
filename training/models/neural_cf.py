"""Neural collaborative filtering (He et al. 2017, NeuMF) whose user is a history, not an id.

Legend: B batch, L history, Q questions, N item rows, M candidates, D width, H hidden width, C trend channels.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from training.models.base import Sizes
from training.models.network import Circumstances, ItemTable, LearnedModel, add_trends, pair_trends
from training.models.query import NUM_BUCKETS, Query, count_bucket, time_bucket

CHUNK_CELLS = 2**22  # question-item pairs whose hidden layer is held at once


class PooledHistory(nn.Module):
    """(B, L + 1, D) learned averages of every prefix: per head, how much an event counts by how many came after.

    Position-weighted pooling in place of NeuMF's user embedding. Head h has its own slice of the width.
    """

    def __init__(self, embedding_dim: int, num_heads: int) -> None:
        super().__init__()
        self.weights = nn.Embedding(NUM_BUCKETS, num_heads)
        nn.init.zeros_(self.weights.weight)
        self.out = nn.Linear(embedding_dim, embedding_dim)

    def forward(self, events: Tensor) -> Tensor:
        size, length, embedding_dim = events.shape
        place = torch.arange(length + 1, device=events.device)
        after = place[:, None] - 1 - place[:-1]  # (L + 1, L): events read since, negative if not yet read
        logits = self.weights(count_bucket(after)).masked_fill((after < 0)[..., None], float("-inf"))
        shares = torch.softmax(logits[1:], dim=1)  # the empty prefix has nothing to share
        shares = torch.cat([torch.zeros_like(logits[:1]), shares])
        heads = events.view(size, length, shares.shape[2], -1)
        return self.out(torch.einsum("plh,blhd->bphd", shares, heads).reshape(size, length + 1, embedding_dim))


class NeuralCF(LearnedModel):
    """score = w · (user ∘ item) + MLP([user, item]) + item bias + trend weights · log trends.

    The first layer of the MLP is linear in the user and in the item, so each side goes through it once and
    only the sum is formed per pair. The user is built from events strictly before the question, so the
    positive is never part of its own history.
    """

    name = "neural_cf"

    def __init__(self, params: dict, sizes: Sizes) -> None:
        super().__init__(params, sizes)
        embedding_dim, hidden_dim, dropout = params["embedding_dim"], params["hidden_dim"], params["dropout"]
        self.items = ItemTable(sizes, embedding_dim)
        self.read = nn.Embedding(sizes.num_items, embedding_dim, padding_idx=0)
        nn.init.normal_(self.read.weight, std=0.05)
        self.gaps = nn.Embedding(NUM_BUCKETS, embedding_dim)
        nn.init.normal_(self.gaps.weight, std=0.05)
        self.history = PooledHistory(embedding_dim, params["num_heads"])
        self.circumstances = Circumstances(sizes, embedding_dim)
        self.dropout = nn.Dropout(dropout)
        self.norm = nn.LayerNorm(embedding_dim)
        self.factor = nn.Linear(embedding_dim, embedding_dim)
        self.user_hidden = nn.Linear(embedding_dim, hidden_dim)
        self.item_hidden = nn.Linear(embedding_dim, hidden_dim, bias=False)
        cut = partial(nn.ReLU, inplace=True)  # what it cuts off nobody reads, and it is the largest that there is
        self.tail = nn.Sequential(cut(), nn.Linear(hidden_dim, hidden_dim // 2), cut(), nn.Linear(hidden_dim // 2, 1))
        self.item_bias = nn.Embedding(sizes.num_items, 1)
        nn.init.zeros_(self.item_bias.weight)
        self.trend_weights = nn.Linear(embedding_dim, len(self.channels))

    def user(self, query: Query) -> Tensor:
        """(Q, D) from the visible history and the circumstances."""
        events = self.read(query.items) + self.gaps(time_bucket(query.gaps))
        events = self.dropout(events * (query.items != 0)[..., None])
        states = self.history(events * events.shape[-1] ** 0.5)[query.row, query.position]
        return self.norm(states + self.circumstances(query))

    def score_all(self, query: Query) -> Tensor:
        user = self.user(query)
        return add_trends(self.match(user), self.trend_weights(user), query.trends, query.moment)

    def match(self, user: Tensor, rows: Tensor | slice = slice(None)) -> Tensor:
        """(Q, M) scores without the trends: all that users (Q, D) and the items of these (M,) rows give."""
        item = self.items(self.content)[rows]
        scores = torch.addmm(self.item_bias.weight[rows, 0], self.factor(user), item.T)
        return scores + self._deep_all(self.user_hidden(user), self.item_hidden(item))

    def score_pairs(self, query: Query, question: Tensor, candidates: Tensor) -> Tensor:
        """(P, M) scores of each target's own candidates.

        Args:
            question: (P,) rows of the query.
            candidates: (P, M) item rows.
        """
        user = self.user(query)
        trends = pair_trends(self.trend_weights(user)[question], query.trends, query.moment[question], candidates)
        return self.match_pairs(user, question, candidates) + trends

    def match_pairs(self, user: Tensor, question: Tensor, candidates: Tensor) -> Tensor:
        """(P, M) as `match`, of each target's own candidates: rows (P,) of the users, (P, M) item rows."""
        item = self.items(self.content)
        chosen = functional.embedding(candidates, item)
        flat = torch.einsum("pmd,pd->pm", chosen, self.factor(user)[question])
        hidden = functional.embedding(candidates, self.item_hidden(item))
        deep = self._deep(self.user_hidden(user)[question][:, None] + hidden)
        return flat + deep + self.item_bias(candidates).squeeze(-1)

    def _deep(self, hidden: Tensor) -> Tensor:
        return self.tail(hidden).squeeze(-1)

    def _deep_all(self, user: Tensor, item: Tensor) -> Tensor:
        size = max(1, CHUNK_CELLS // (len(item) * user.shape[1]))
        parts = [self._deep(part[:, None] + item) for part in user.split(size)]
        return torch.cat(parts)
