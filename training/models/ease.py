"""EASE: a linear autoencoder solved in closed form (Steck 2019, equation 8)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from features.encode import Batch
from training.models.base import MatrixModel, Sizes, check_catalogue, history_sum, where_history


class Ease(MatrixModel):
    """Scores are the history's rows of B = I - P / diag(P), P = (X'X + l2 I)^-1, with a zero diagonal."""

    name = "ease"
    weights: Tensor
    counts: Tensor

    def __init__(self, params: dict, sizes: Sizes) -> None:
        super().__init__(params, sizes)
        check_catalogue(self.name, sizes.num_items, params["max_items"])
        self.register_buffer("weights", torch.zeros(sizes.num_items, sizes.num_items))
        self.register_buffer("counts", torch.zeros(sizes.num_items))

    def fit(self, matrix, seed: int) -> None:
        from scipy import linalg  # not at the top: the serving worker's environment has no scipy

        gram = (matrix.T @ matrix).toarray().astype(np.float64)
        counts = gram.diagonal().copy()
        gram[np.diag_indices_from(gram)] += self.params["l2"]
        factor, _ = linalg.lapack.dpotrf(gram, lower=True, overwrite_a=True)
        inverse, _ = linalg.lapack.dpotri(factor, lower=True, overwrite_c=True)
        inverse = np.tril(inverse) + np.tril(inverse, -1).T
        inverse /= -inverse.diagonal()
        np.fill_diagonal(inverse, 0)
        self.weights.copy_(torch.from_numpy(inverse))
        self.counts.copy_(torch.from_numpy(counts))

    def scores(self, batch: Batch) -> Tensor:
        return where_history(batch, history_sum(self.weights, batch), self.counts)
