"""Two-tower retrieval: a user vector from the history and the request, an item vector from id and content.

Legend: Q queries, N item rows, M candidates, D embedding width.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from config.validation import Count
from training.models.base import Factors, Sizes, register
from training.models.layers import ContextEncoder, HistoryEncoder, ItemTable, add_trends
from training.models.network import Network, NetworkHyperparameters
from training.models.query import Query


class TwoTowerHyperparameters(NetworkHyperparameters):
    name: Literal["two_tower"]
    num_layers: Count
    # Over the catalog; over the batch's items with the logQ correction; the same without it.
    loss: Literal["full_softmax", "in_batch", "in_batch_uncorrected"]


@register
class TwoTower(Network[TwoTowerHyperparameters]):
    """score = user · item + item bias + (trend weights of the query) · (log trends of the item).

    The user tower reads the state of the history encoder and the context of the request. Beside the vector it gives
    the weight of each trend channel for this query: how much the crowd says depends on how long ago the user was last
    seen and how much is known of them.
    """

    name = "two_tower"
    hyperparameters_type = TwoTowerHyperparameters
    is_product = True

    def __init__(self, hyperparameters: TwoTowerHyperparameters, sizes: Sizes) -> None:
        super().__init__(hyperparameters, sizes)
        embedding_dim, dropout = hyperparameters.embedding_dim, hyperparameters.dropout
        self.items = ItemTable(sizes, embedding_dim)
        self.item_bias = nn.Parameter(torch.zeros(sizes.num_items))
        self.history = HistoryEncoder(embedding_dim, hyperparameters.num_layers, hyperparameters.num_heads, dropout)
        self.context = ContextEncoder(sizes, embedding_dim)
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
        user = self.history(query, item_vectors) + self.context(query)
        user = self.norm(user + self.mix(user))
        return Factors(user, item_vectors, self.item_bias, self.trend_weights(user))

    def score_shared(self, query: Query, candidates: Tensor) -> Tensor:
        """(Q, M) scores of the same (M,) candidate items for every query."""
        user, item, bias, weights = self.factors(query)
        scores = torch.addmm(bias[candidates], user, item[candidates].T)
        return add_trends(scores, weights, query.trends[:, :, candidates], query.moment)
