"""SASRec (Kang and McAuley 2018): the next item from the order of the last ones, and from nothing else.

Legend: B histories, L length, Q queries, N item rows, D embedding width.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from config.validation import Count
from features.vocabulary import PAD
from training.models.base import Factors, Sizes, register
from training.models.layers import CausalBlock, states_at
from training.models.network import Network, NetworkHyperparameters
from training.models.query import Query


class SASRecHyperparameters(NetworkHyperparameters):
    name: Literal["sasrec"]
    channels: Annotated[list[str], Field(min_length=1, max_length=1)]  # the trend that ranks for users without history
    num_layers: Count
    loss: Literal["full_softmax"]


@register
class SASRec(Network[SASRecHyperparameters]):
    """score = state of the newest event · item embedding; one table of item ids for input and output.

    A baseline: no content, no context, no time. For users without a history the one channel of `channels` ranks: `all`
    is all-time popularity. Departs from the paper where later work found it too weak (Klenitskiy and Vasilev 2023):
    the loss is a softmax over the whole catalog instead of one sampled negative. Its blocks are those of
    `layers.HistoryEncoder`, so it lacks nothing that they have.
    """

    name = "sasrec"
    hyperparameters_type = SASRecHyperparameters
    is_product = True
    baseline = True

    def __init__(self, hyperparameters: SASRecHyperparameters, sizes: Sizes) -> None:
        super().__init__(hyperparameters, replace(sizes, content_width=0, trait_sizes=[], context_sizes=[]))
        embedding_dim, dropout = hyperparameters.embedding_dim, hyperparameters.dropout
        self.items = nn.Embedding(sizes.num_items, embedding_dim, padding_idx=PAD)
        self.positions = nn.Embedding(hyperparameters.max_history, embedding_dim)
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(
            CausalBlock(embedding_dim, hyperparameters.num_heads, dropout) for _ in range(hyperparameters.num_layers)
        )
        self.norm = nn.LayerNorm(embedding_dim)
        nn.init.normal_(self.items.weight, std=0.05)
        nn.init.normal_(self.positions.weight, std=0.05)

    def set_content(self, item_features: np.ndarray) -> None:
        """It knows items by their ids alone."""

    def states(self, query: Query) -> Tensor:
        """(Q, D) after the newest event that each query sees; of the first one where it sees none.

        Positions are counted from the newest event that a query on the history sees, as in the paper, which pads on the
        left and leaves the last event out of its input. A request is answered from position 0, so training must use
        position 0 too. Padding changes nothing.
        """
        newest = query.position.new_zeros(len(query.items)).scatter_reduce(0, query.row, query.position, "amax")
        position = newest[:, None] - 1 - torch.arange(query.items.shape[1], device=newest.device)
        events = self.items(query.items) * self.items.embedding_dim**0.5
        states = self.dropout(events + self.positions(position.clamp(min=0)))
        return self.norm(states_at(self.blocks, states, query, (query.position - 1).clamp(min=0)))

    def factors(self, query: Query) -> Factors:
        states = self.states(query)
        empty = (query.position == 0)[:, None]
        items = self.items.weight
        return Factors(states.masked_fill(empty, 0), items, items.new_zeros(len(items)), empty.to(items.dtype))
