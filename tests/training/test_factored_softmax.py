"""The full softmax in slices is the full softmax."""

from __future__ import annotations

import pytest
import torch

from training import losses as sliced
from training.losses import full_softmax
from training.models.base import Factors
from training.models.network import add_trends

QUESTIONS, ITEMS, WIDTH, CHANNELS, MOMENTS = 37, 23, 5, 3, 4


@pytest.mark.parametrize("cells", [1, 7 * ITEMS, 10**6])  # one question a slice, some, all
def test_slices_give_the_value_and_the_gradient_of_the_whole(cells: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sliced, "SLICE_CELLS", cells)
    generator = torch.Generator().manual_seed(cells)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    def whole(high: int, count: int, low: int = 0) -> torch.Tensor:
        return torch.randint(low, high, (count,), generator=generator)

    leaves = [normal(QUESTIONS, WIDTH), normal(ITEMS, WIDTH), normal(ITEMS), normal(QUESTIONS, CHANNELS)]
    factors = Factors(*(leaf.requires_grad_() for leaf in leaves))
    trends, moment = normal(MOMENTS, CHANNELS, ITEMS), whole(MOMENTS, QUESTIONS)
    cells_of = torch.unique(whole(QUESTIONS * (ITEMS - 1), 80))  # (question, item) once each, never PAD
    question, item = cells_of // (ITEMS - 1), cells_of % (ITEMS - 1) + 1
    masked, question, item = torch.stack([question[::2], item[::2]]), question[1::2], item[1::2]
    weight = torch.rand(len(item), generator=generator, dtype=torch.float64)

    ours = sliced.factored_softmax(factors, trends, moment, sliced.Targets(question, item, weight, masked))
    scores = add_trends(torch.addmm(factors.bias, factors.user, factors.item.T), factors.weights, trends, moment)
    plain = (full_softmax(scores, masked, question, item) * weight).sum()

    torch.testing.assert_close(ours, plain)
    for mine, theirs in zip(
        torch.autograd.grad(3 * ours, factors), torch.autograd.grad(3 * plain, factors), strict=True
    ):
        torch.testing.assert_close(mine, theirs)
