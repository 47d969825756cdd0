"""What is particular to iALS: users are folded in exactly as the library that fitted the items would."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from implicit.als import AlternatingLeastSquares
from made_features import checkerboard, recipe
from scipy import sparse
from threadpoolctl import threadpool_limits

from training.fitting import interaction_matrix
from training.models import ials
from training.models.base import Sizes, build

MATRIX = interaction_matrix(checkerboard().past, 41)


def fitted(seed: int = 0, **changes: object) -> ials.Ials:
    model = build(recipe("ials", **changes), Sizes(num_items=41, content_width=0))
    assert isinstance(model, ials.Ials)
    model.fit(MATRIX, seed)
    return model


def library(model: ials.Ials) -> AlternatingLeastSquares:
    """The library's model with the same item factors."""
    with threadpool_limits(1, "blas"):
        solver = AlternatingLeastSquares(
            factors=model.hyperparameters.num_factors, alpha=model.hyperparameters.alpha,
            regularization=model.hyperparameters.regularization, use_gpu=False,
        )  # fmt: skip
    solver.item_factors = model.factors.numpy()
    return solver


def padded(matrix: sparse.csr_matrix) -> torch.Tensor:
    """(U, L) histories with the items of each row, PAD on the left."""
    width = int(np.diff(matrix.indptr).max())
    rows = [np.pad(row, (width - len(row), 0)) for row in np.split(matrix.indices, matrix.indptr[1:-1])]
    return torch.from_numpy(np.stack(rows).astype(np.int64))


@pytest.mark.parametrize("alpha", [1, 10, 40])
@pytest.mark.parametrize("num_factors", [4, 64])
def test_folded_in_users_are_those_of_the_library(alpha: int, num_factors: int) -> None:
    model = fitted(alpha=alpha, num_factors=num_factors)

    expected = library(model).recalculate_user(np.arange(MATRIX.shape[0]), MATRIX)
    torch.testing.assert_close(model.user_vectors(padded(MATRIX)), torch.from_numpy(expected), rtol=1e-4, atol=1e-4)


def test_one_factor_by_hand() -> None:
    model = build(
        {"name": "ials", "num_factors": 1, "alpha": 10, "regularization": 0.5, "iterations": 1},
        Sizes(num_items=4, content_width=0),
    )
    assert isinstance(model, ials.Ials)
    model.factors.copy_(torch.tensor([[0.0], [1.0], [2.0], [3.0]]))
    model.gram.fill_(1 + 4 + 9 + 0.5)

    x = 10 * (1 + 3) / (14.5 + (10 - 1) * (1 + 9))  # items 1 and 3
    for history in ([1, 3], [0, 1, 3], [3, 1, 3, 1]):  # neither padding nor a repeat is an event
        torch.testing.assert_close(model.user_vectors(torch.tensor([history])), torch.tensor([[x]]))


def test_parts_do_not_change_users(monkeypatch: pytest.MonkeyPatch) -> None:
    model, histories = fitted(), padded(MATRIX)
    whole = model.user_vectors(histories)
    monkeypatch.setattr(ials, "MAX_GATHERED_CELLS", 1)

    torch.testing.assert_close(model.user_vectors(histories), whole)


def test_the_seed_decides_the_factors() -> None:
    assert torch.equal(fitted(seed=1).factors, fitted(seed=1).factors)
    assert not torch.equal(fitted(seed=1).factors, fitted(seed=2).factors)


@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_the_library_finds_blas_on_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("implicit.utils._checked_blas_config", False)

    fitted()
