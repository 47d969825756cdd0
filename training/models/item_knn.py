"""Item-based nearest neighbors (Sarwar et al. 2001), cosine with shrinkage."""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from config.validation import Count
from features.encode import Batch
from training.models.base import (
    Hyperparameters,
    MatrixModel,
    Sizes,
    check_catalog_size,
    fall_back_without_history,
    register,
    sum_over_history,
)

BLOCK_ROWS = 1024  # similarities that are computed at a time


class ItemKNNHyperparameters(Hyperparameters):
    name: Literal["item_knn"]
    shrinkage: Annotated[float, Field(ge=0)]
    num_neighbors: Count  # kept of each candidate
    max_items: Count  # a larger catalog is refused


@register
class ItemKNN(MatrixModel[ItemKNNHyperparameters]):
    """Scores are sums of similarities S = cooccurrence / (sqrt(n_i n_j) + shrinkage) over the history.

    Each candidate keeps its `num_neighbors` most similar items. The weights are those lists; the square matrix is
    built from them at the first request.
    """

    name = "item_knn"
    hyperparameters_type = ItemKNNHyperparameters
    neighbors: Tensor
    similarity: Tensor
    counts: Tensor

    def __init__(self, hyperparameters: ItemKNNHyperparameters, sizes: Sizes) -> None:
        super().__init__(hyperparameters, sizes)
        check_catalog_size(self.name, sizes.num_items, hyperparameters.max_items)
        num_neighbors = min(hyperparameters.num_neighbors, sizes.num_items)
        self.register_buffer("neighbors", torch.zeros(sizes.num_items, num_neighbors, dtype=torch.int32))
        self.register_buffer("similarity", torch.zeros(sizes.num_items, num_neighbors))
        self.register_buffer("counts", torch.zeros(sizes.num_items))
        self._table: Tensor | None = None

    def fit(self, matrix, seed: int) -> None:
        counts = np.asarray(matrix.sum(axis=0)).ravel()
        cooccurrence = (matrix.T @ matrix).astype(np.float32).tocsr()
        cooccurrence.setdiag(0)
        num_neighbors = self.neighbors.shape[1]
        for start in range(0, self.sizes.num_items, BLOCK_ROWS):
            rows = slice(start, start + BLOCK_ROWS)
            block = cooccurrence[rows].toarray()
            block /= np.sqrt(counts[rows, None] * counts) + self.hyperparameters.shrinkage
            # Stable sort: equal similarities keep the vocabulary's order.
            nearest = np.argsort(-block, axis=1, kind="stable")[:, :num_neighbors]
            self.neighbors[rows] = torch.from_numpy(nearest.astype(np.int32))
            self.similarity[rows] = torch.from_numpy(np.take_along_axis(block, nearest, axis=1))
        self.counts.copy_(torch.from_numpy(counts))
        self._table = None

    def scores(self, batch: Batch) -> Tensor:
        if self._table is None:
            self._table = self._similarity_matrix()
        return fall_back_without_history(batch, sum_over_history(self._table, batch), self.counts)

    def _similarity_matrix(self) -> Tensor:
        """(N, N): row j holds what item j in a history adds to each candidate."""
        candidates = torch.zeros(self.sizes.num_items, self.sizes.num_items)
        candidates.scatter_(1, self.neighbors.long(), self.similarity)
        return candidates.T.contiguous()
