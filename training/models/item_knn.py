"""Item-based nearest neighbors (Sarwar et al. 2001), cosine with shrinkage."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from features.encode import Batch
from training.models.base import MatrixModel, Sizes, check_catalogue, history_sum, where_history


class ItemKNN(MatrixModel):
    """Scores are sums of similarities S = cooccurrence / (sqrt(n_i n_j) + shrinkage) over the history.

    Each candidate keeps its `neighbors` most similar items. The weights are those lists; the square
    matrix is unfolded from them when first asked.
    """

    name = "item_knn"
    neighbors: Tensor
    similarity: Tensor
    counts: Tensor

    def __init__(self, params: dict, sizes: Sizes) -> None:
        super().__init__(params, sizes)
        check_catalogue(self.name, sizes.num_items, params["max_items"])
        kept = min(params["num_neighbors"], sizes.num_items)
        self.register_buffer("neighbors", torch.zeros(sizes.num_items, kept, dtype=torch.int32))
        self.register_buffer("similarity", torch.zeros(sizes.num_items, kept))
        self.register_buffer("counts", torch.zeros(sizes.num_items))
        self._table: Tensor | None = None

    def fit(self, matrix, seed: int) -> None:
        counts = np.asarray(matrix.sum(axis=0)).ravel()
        together = (matrix.T @ matrix).astype(np.float32).tocsr()
        together.setdiag(0)
        kept = self.neighbors.shape[1]
        for begin in range(0, self.sizes.num_items, 1024):
            block = together[begin : begin + 1024].toarray()
            block /= np.sqrt(counts[begin : begin + 1024, None] * counts) + self.params["shrinkage"]
            # Stable, so that equal similarities keep the vocabulary's order.
            nearest = np.argsort(-block, axis=1, kind="stable")[:, :kept]
            self.neighbors[begin : begin + 1024] = torch.from_numpy(nearest.astype(np.int32))
            chosen = np.take_along_axis(block, nearest, axis=1)
            self.similarity[begin : begin + 1024] = torch.from_numpy(chosen)
        self.counts.copy_(torch.from_numpy(counts))
        self._table = None

    def scores(self, batch: Batch) -> Tensor:
        if self._table is None:
            self._table = self._unfold()
        return where_history(batch, history_sum(self._table, batch), self.counts)

    def _unfold(self) -> Tensor:
        """(N, N): row j holds what item j in a history adds to each candidate."""
        candidates = torch.zeros(self.sizes.num_items, self.sizes.num_items)
        candidates.scatter_(1, self.neighbors.long(), self.similarity)
        return candidates.T.contiguous()
