"""SASRec (Kang and McAuley 2018): the next item from the order of the last ones, and from nothing else.

Legend: B histories, L history, Q questions, N item rows, D width, T moments.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from features.vocabulary import PAD
from training.models.base import Factors, Sizes
from training.models.history_encoder import CausalBlock, states_at
from training.models.network import LearnedModel
from training.models.query import Query


class SASRec(LearnedModel):
    """score = state of the newest event · item embedding; one table of item ids for input and output.

    A baseline: no content, no circumstances, no time. Who has no history is ranked for by the one channel of
    `channels`: `all` is all-time popularity. Departs from the paper where later work found it too weak
    (Klenitskiy and Vasilev 2023): the loss is a softmax over the whole catalogue instead of one sampled
    negative. Its blocks are those of our own history encoder, so that it lacks nothing that they have.
    """

    name = "sasrec"
    is_product = True
    baseline = True

    def __init__(self, params: dict, sizes: Sizes) -> None:
        super().__init__(params, replace(sizes, content_width=0, trait_sizes=[], context_sizes=[]))
        embedding_dim = params["embedding_dim"]
        self.items = nn.Embedding(sizes.num_items, embedding_dim, padding_idx=PAD)
        self.places = nn.Embedding(params["max_history"], embedding_dim)
        self.dropout = nn.Dropout(params["dropout"])
        self.blocks = nn.ModuleList(
            CausalBlock(embedding_dim, params["num_heads"], params["dropout"]) for _ in range(params["num_layers"])
        )
        self.norm = nn.LayerNorm(embedding_dim)
        nn.init.normal_(self.items.weight, std=0.05)
        nn.init.normal_(self.places.weight, std=0.05)

    def set_content(self, item_features: np.ndarray) -> None:
        """Nothing to take: it knows items by their ids alone."""

    def states(self, query: Query) -> Tensor:
        """(Q, D) after the newest event that each question sees; of the first one where it sees none.

        Places are counted from the newest event that a question on the history sees, as in the paper, which
        pads on the left and leaves the last event out of its input: place 0 is what a request is answered
        from, so it must be one that training answers from. Padding changes nothing.
        """
        newest = query.position.new_zeros(len(query.items)).scatter_reduce(0, query.row, query.position, "amax")
        place = newest[:, None] - 1 - torch.arange(query.items.shape[1], device=newest.device)
        events = self.items(query.items) * self.items.embedding_dim**0.5
        states = self.dropout(events + self.places(place.clamp(min=0)))
        return self.norm(states_at(self.blocks, states, query, (query.position - 1).clamp(min=0)))

    def factors(self, query: Query) -> Factors:
        states = self.states(query)
        empty = (query.position == 0)[:, None]
        items = self.items.weight
        return Factors(states.masked_fill(empty, 0), items, items.new_zeros(len(items)), empty.to(items.dtype))
