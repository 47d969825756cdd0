"""iALS: matrix factorization of implicit feedback by alternating least squares (Hu, Koren and Volinsky 2008).

Legend: B batch, L history, N item rows, D factors, U users.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from features.encode import Batch
from features.vocabulary import PAD
from training.models.base import MatrixModel, Sizes, where_history

PART_CELLS = 1 << 23  # of the item vectors gathered at a time: bounds memory where histories are long


class Ials(MatrixModel):
    """Scores are x · y. The library `implicit` fits the item factors Y; users are folded in.

    An event has confidence alpha, a missing one 1 (`implicit`'s convention; alpha + 1 in the paper). Whoever
    asks gets the x that minimises the same loss for their history with Y held: equation 4 of the paper, so
    that nobody needs to have been in training.
    """

    name = "ials"
    factors: Tensor
    gram: Tensor
    counts: Tensor

    def __init__(self, params: dict, sizes: Sizes) -> None:
        super().__init__(params, sizes)
        num_factors = params["num_factors"]
        self.register_buffer("factors", torch.zeros(sizes.num_items, num_factors))
        self.register_buffer("gram", torch.eye(num_factors))  # Y'Y + regularization I
        self.register_buffer("counts", torch.zeros(sizes.num_items))

    def fit(self, matrix, seed: int) -> None:
        # Not at the top: the serving worker's environment has neither.
        from implicit.als import AlternatingLeastSquares
        from threadpoolctl import threadpool_limits

        # The solver has threads of its own, in each of which BLAS must not start more.
        with threadpool_limits(1, "blas"):
            solver = AlternatingLeastSquares(
                factors=self.params["num_factors"],
                alpha=self.params["alpha"],
                regularization=self.params["regularization"],
                iterations=self.params["iterations"],
                num_threads=torch.get_num_threads(),
                random_state=seed,
                use_gpu=False,  # the same factors on every machine
            )
            solver.fit(matrix, show_progress=False)
        self.counts.copy_(torch.from_numpy(np.asarray(matrix.sum(axis=0)).ravel()))
        self.factors.copy_(torch.from_numpy(solver.item_factors))
        self.gram.copy_(self.factors.T @ self.factors)
        self.gram.diagonal().add_(self.params["regularization"])

    def user_vectors(self, items: Tensor) -> Tensor:
        """(B, D) the folded-in users of (B, L) histories; zero for an empty one."""
        rows = max(1, PART_CELLS // (items.shape[1] * self.factors.shape[1]))
        return torch.cat([self._fold_in(part) for part in items.split(rows)])

    def _fold_in(self, items: Tensor) -> Tensor:
        """x = (Y'Y + reg I + (alpha - 1) Σ y y')⁻¹ alpha Σ y, sums over the distinct items of each history.

        In float64: in which order the sums are taken, which the longest history of the batch decides, is lost when
        the result is rounded, and no user's vector depends on the others'.
        """
        ordered = items.sort(dim=1).values
        distinct = (ordered != PAD) & (ordered.diff(dim=1, prepend=ordered.new_full((len(items), 1), PAD)) != 0)
        taken = self.factors[ordered].double() * distinct[..., None]
        alpha = self.params["alpha"]
        system = self.gram.double() + (alpha - 1) * (taken.transpose(1, 2) @ taken)
        return torch.linalg.solve(system, alpha * taken.sum(dim=1)).float()

    def scores(self, batch: Batch) -> Tensor:
        return where_history(batch, self.user_vectors(batch.items) @ self.factors.T, self.counts)
