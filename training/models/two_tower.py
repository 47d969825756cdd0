"""Two-tower retrieval: a user vector from the history and the request, an item vector from id and content.

Legend: B batch, L history, Q questions, N item rows, M candidates, D width, C trend channels.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from training.models.base import Factors, Sizes
from training.models.history_encoder import HistoryEncoder
from training.models.network import Circumstances, ItemTable, LearnedModel, add_trends
from training.models.query import Query


class TwoTower(LearnedModel):
    """score = user · item + item bias + (weights of the question) · (log trends of the item).

    The user tower reads the state of the history encoder and the circumstances of the request; beside the
    vector it gives the weight that each trend channel has for this question, because how much the crowd
    says depends on how long ago the user was last seen and how much is known of them.
    """

    name = "two_tower"
    is_product = True

    def __init__(self, params: dict, sizes: Sizes) -> None:
        super().__init__(params, sizes)
        embedding_dim, dropout = params["embedding_dim"], params["dropout"]
        self.items = ItemTable(sizes, embedding_dim)
        self.item_bias = nn.Parameter(torch.zeros(sizes.num_items))
        self.history = HistoryEncoder(embedding_dim, params["num_layers"], params["num_heads"], dropout)
        self.circumstances = Circumstances(sizes, embedding_dim)
        self.mix = nn.Sequential(
            nn.LayerNorm(embedding_dim),
            nn.Linear(embedding_dim, 2 * embedding_dim),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(2 * embedding_dim, embedding_dim),
        )
        self.norm = nn.LayerNorm(embedding_dim)
        self.trend_weights = nn.Linear(embedding_dim, len(self.channels))

    def factors(self, query: Query) -> Factors:
        item_vectors = self.items(self.content)
        asked = self.history(query, item_vectors) + self.circumstances(query)
        asked = self.norm(asked + self.mix(asked))
        return Factors(asked, item_vectors, self.item_bias, self.trend_weights(asked))

    def score_shared(self, query: Query, candidates: Tensor) -> Tensor:
        """(Q, M) scores of the same (M,) candidate items for every question."""
        user, item, bias, weights = self.factors(query)
        scores = torch.addmm(bias[candidates], user, item[candidates].T)
        return add_trends(scores, weights, query.trends[:, :, candidates], query.moment)
