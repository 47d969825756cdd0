"""Fitted weights trust each part as far as the validation period says, request by request."""

from __future__ import annotations

import numpy as np
import torch

from training.models.hybrid import NUM_META_FEATURES
from training.stacking import StackingData, choose_l2, fit_stacking_weights


def sampled_data(scores: torch.Tensor, meta: torch.Tensor, right: torch.Tensor) -> StackingData:
    """Cases whose true item is drawn from the softmax of the part that is right in that case."""
    generator = torch.Generator().manual_seed(1)
    shares = torch.softmax(scores[right, torch.arange(len(right))], dim=1)
    true = torch.zeros_like(shares).scatter_(1, torch.multinomial(shares, 1, generator=generator), 1)
    return StackingData(scores, meta, true, torch.zeros(shares.shape, dtype=torch.bool), torch.ones(len(right)))


def plain_loss(data: StackingData, weights: torch.Tensor) -> torch.Tensor:
    """The loss by its definition, without derivatives."""
    blended = data.blended(weights)
    each = torch.logsumexp(blended, dim=1, keepdim=True) - blended
    found = data.true.sum(dim=1)
    return ((each * data.true).sum(dim=1) / found.clamp(min=1))[found > 0].mean()


def test_the_part_that_is_right_is_trusted_where_it_is_right() -> None:
    generator = torch.Generator().manual_seed(0)
    scores = 2 * torch.randn(2, 4000, 12, generator=generator)
    known = torch.arange(4000) % 2
    meta = torch.zeros(4000, NUM_META_FEATURES)
    meta[:, 0], meta[:, 2] = 1, known
    start = torch.full((2, NUM_META_FEATURES), 0.0)

    weights = fit_stacking_weights(
        start, [sampled_data(scores, meta, known)], l2=0.0
    )  # part 1 is right where much is known

    unknown, well_known = weights[:, 0], weights[:, 0] + weights[:, 2]
    torch.testing.assert_close(unknown, torch.tensor([1.0, 0.0]), atol=0.08, rtol=0)
    torch.testing.assert_close(well_known, torch.tensor([0.0, 1.0]), atol=0.08, rtol=0)


def test_the_weights_are_the_best_however_the_parts_are_scaled() -> None:
    generator = torch.Generator().manual_seed(0)
    scores, meta = (
        torch.randn(3, 1500, 200, generator=generator),
        torch.rand(1500, NUM_META_FEATURES, generator=generator),
    )
    data = sampled_data(scores, meta, torch.arange(1500) % 3)
    data.scores = scores * torch.tensor([30.0, 10.0, 0.01])[:, None, None]
    start = torch.full((3, NUM_META_FEATURES), 0.1)

    weights = fit_stacking_weights(start, [data], l2=0.001).double().requires_grad_()

    loss = plain_loss(data.double(), weights) + 0.001 * ((weights - start.double()) ** 2).sum()
    (slope,) = torch.autograd.grad(loss, weights)
    assert slope.abs().max() < 1e-5


def test_gradient_and_hessian_are_those_of_the_loss() -> None:
    generator = torch.Generator().manual_seed(0)
    scores, meta = torch.randn(3, 40, 9, generator=generator), torch.rand(40, NUM_META_FEATURES, generator=generator)
    data = sampled_data(scores, meta, torch.arange(40) % 3).double()
    data.true[:, 3] = 1  # more than one
    data.absent[::3, 5:] = True
    data.true[data.absent] = 0
    data.true[4] = 0  # none at all
    weights = torch.rand(3, NUM_META_FEATURES, generator=generator).double().requires_grad_()

    value, gradient, hessian = data.loss(weights)

    loss = plain_loss(data, weights)
    torch.testing.assert_close(value, loss.detach())
    torch.testing.assert_close(gradient, torch.autograd.grad(loss, weights)[0])
    torch.testing.assert_close(
        hessian, torch.autograd.functional.hessian(lambda given: plain_loss(data, given), weights)
    )


def test_a_user_is_scored_with_weights_from_other_users() -> None:
    scores = 2 * torch.randn(2, 4000, 12, generator=torch.Generator().manual_seed(0))
    user = np.arange(4000)
    meta = torch.zeros(4000, NUM_META_FEATURES)
    meta[:, 0] = 1
    data = sampled_data(scores, meta, torch.from_numpy(user % 2))  # part 0 is right for even users, part 1 for odd ones

    _, (for_even, for_odd) = choose_l2(
        torch.zeros(2, NUM_META_FEATURES), {"next_item": data}, {"next_item": user}, [0.0]
    )

    torch.testing.assert_close(for_even[:, 0], torch.tensor([0.0, 1.0]), atol=0.08, rtol=0)
    torch.testing.assert_close(for_odd[:, 0], torch.tensor([1.0, 0.0]), atol=0.08, rtol=0)
