"""Neural CF whose user is a set of items: no order, times, traits or trends, since the paper's data has none.

Legend: B users, N item rows (PAD's included), D width.
"""

from __future__ import annotations

import warnings

from torch import Tensor

from training.models.base import Sizes
from training.models.neural_cf import NeuralCF


class SetNeuralCF(NeuralCF):
    """The network as it is, but that every event of a history counts the same."""

    def __init__(self, recipe: dict, num_items: int) -> None:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Initializing zero-element tensors")  # no trends, no weights
            super().__init__(recipe | {"heads": 1, "channels": [], "max_history": num_items}, Sizes(num_items, 0))

    def users_of(self, taken: Tensor) -> Tensor:
        """(B, D) users of (B, N) sets."""
        share = taken / taken.sum(dim=1, keepdim=True).clamp(min=1)
        # Dropped before they are summed, as the network drops events.
        pooled = self.dropout(share) @ self.read.weight * self.read.weight.shape[1] ** 0.5
        return self.norm(self.history.out(pooled))
