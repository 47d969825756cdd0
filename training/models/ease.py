"""EASE: a linear autoencoder solved in closed form (Steck 2019, equation 8)."""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from config.validation import Count
from features.encode import Batch
from training.models.base import (
    AS_LIST,
    Hyperparameters,
    MatrixModel,
    Sizes,
    check_catalog_size,
    fall_back_without_history,
    register,
    sum_over_history,
)


class EaseHyperparameters(Hyperparameters):
    name: Literal["ease"]
    # The value that is best on validation is kept.
    l2: Annotated[list[Annotated[float, Field(gt=0)]], Field(min_length=1), AS_LIST]
    max_items: Count  # a larger catalog is refused


@register
class Ease(MatrixModel[EaseHyperparameters]):
    """Scores are the history's rows of B = I - P / diag(P), P = (X'X + l2 I)^-1, with a zero diagonal."""

    name = "ease"
    hyperparameters_type = EaseHyperparameters
    weights: Tensor
    counts: Tensor

    def __init__(self, hyperparameters: EaseHyperparameters, sizes: Sizes) -> None:
        super().__init__(hyperparameters, sizes)
        check_catalog_size(self.name, sizes.num_items, hyperparameters.max_items)
        self.register_buffer("weights", torch.zeros(sizes.num_items, sizes.num_items))
        self.register_buffer("counts", torch.zeros(sizes.num_items))

    def fit(self, matrix, seed: int) -> None:
        from scipy import linalg  # the serving worker has no scipy

        (l2,) = self.hyperparameters.l2
        gram = (matrix.T @ matrix).toarray().astype(np.float64)
        counts = gram.diagonal().copy()
        gram[np.diag_indices_from(gram)] += l2
        factor, _ = linalg.lapack.dpotrf(gram, lower=True, overwrite_a=True)
        inverse, _ = linalg.lapack.dpotri(factor, lower=True, overwrite_c=True)
        inverse = np.tril(inverse) + np.tril(inverse, -1).T
        inverse /= -inverse.diagonal()
        np.fill_diagonal(inverse, 0)
        self.weights.copy_(torch.from_numpy(inverse))
        self.counts.copy_(torch.from_numpy(counts))

    def scores(self, batch: Batch) -> Tensor:
        return fall_back_without_history(batch, sum_over_history(self.weights, batch), self.counts)
