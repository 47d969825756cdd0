"""iALS: matrix factorization of implicit feedback by alternating least squares (Hu, Koren and Volinsky 2008).

Legend: B batch, L history, N item rows, D factors.
"""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from config.validation import Count
from features.encode import Batch
from features.vocabulary import PAD
from training.models.base import Hyperparameters, MatrixModel, Sizes, fall_back_without_history, register

MAX_GATHERED_CELLS = 1 << 23  # of item vectors held at a time: bounds memory where histories are long


class IalsHyperparameters(Hyperparameters):
    name: Literal["ials"]
    num_factors: Count
    alpha: Annotated[float, Field(ge=1)]  # confidence in an event; that in a missing one is 1
    regularization: Annotated[float, Field(gt=0)]
    iterations: Count


@register
class Ials(MatrixModel[IalsHyperparameters]):
    """Scores are x · y. The library `implicit` fits the item factors Y; users are folded in.

    An event has confidence alpha, a missing one 1 (`implicit`'s convention; alpha + 1 in the paper). A user is the x
    that minimizes the same loss for their history with Y fixed (equation 4 of the paper), so nobody needs to have been
    in training.
    """

    name = "ials"
    hyperparameters_type = IalsHyperparameters
    factors: Tensor
    gram: Tensor
    counts: Tensor

    def __init__(self, hyperparameters: IalsHyperparameters, sizes: Sizes) -> None:
        super().__init__(hyperparameters, sizes)
        num_factors = hyperparameters.num_factors
        self.register_buffer("factors", torch.zeros(sizes.num_items, num_factors))
        self.register_buffer("gram", torch.eye(num_factors))  # Y'Y + regularization I
        self.register_buffer("counts", torch.zeros(sizes.num_items))

    def fit(self, matrix, seed: int) -> None:
        # The serving worker has neither library.
        from implicit.als import AlternatingLeastSquares
        from threadpoolctl import threadpool_limits

        # The solver has threads of its own; BLAS must not start more in each of them.
        with threadpool_limits(1, "blas"):
            solver = AlternatingLeastSquares(
                factors=self.hyperparameters.num_factors,
                alpha=self.hyperparameters.alpha,
                regularization=self.hyperparameters.regularization,
                iterations=self.hyperparameters.iterations,
                num_threads=torch.get_num_threads(),
                random_state=seed,
                use_gpu=False,  # the same factors on every machine
            )
            solver.fit(matrix, show_progress=False)
        self.counts.copy_(torch.from_numpy(np.asarray(matrix.sum(axis=0)).ravel()))
        self.factors.copy_(torch.from_numpy(solver.item_factors))
        self.gram.copy_(self.factors.T @ self.factors)
        self.gram.diagonal().add_(self.hyperparameters.regularization)

    def user_vectors(self, items: Tensor) -> Tensor:
        """(B, D) folded-in users of (B, L) histories; zero for an empty one."""
        rows = max(1, MAX_GATHERED_CELLS // (items.shape[1] * self.factors.shape[1]))
        return torch.cat([self._fold_in(part) for part in items.split(rows)])

    def _fold_in(self, items: Tensor) -> Tensor:
        """x = (Y'Y + reg I + (alpha - 1) Σ y y')⁻¹ alpha Σ y, sums over the distinct items of each history.

        In float64: the order of summation depends on the longest history of the batch. Rounding the result hides it,
        so that no user's vector depends on the other users of the batch.
        """
        ordered = items.sort(dim=1).values
        distinct = (ordered != PAD) & (ordered.diff(dim=1, prepend=ordered.new_full((len(items), 1), PAD)) != 0)
        vectors = self.factors[ordered].double() * distinct[..., None]
        alpha = self.hyperparameters.alpha
        system = self.gram.double() + (alpha - 1) * (vectors.transpose(1, 2) @ vectors)
        return torch.linalg.solve(system, alpha * vectors.sum(dim=1)).float()

    def scores(self, batch: Batch) -> Tensor:
        return fall_back_without_history(batch, self.user_vectors(batch.items) @ self.factors.T, self.counts)
