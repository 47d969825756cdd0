"""Losses agree with the full softmax wherever theory says so; negatives come as often as they should."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from features.vocabulary import PAD
from training import losses
from training.losses import (
    MASKED,
    NegativeSampler,
    StreamingFrequency,
    binary_cross_entropy,
    in_batch_softmax,
    sampled_softmax,
)
from training.models.base import Factors
from training.models.layers import add_trends

NOTHING = torch.zeros(2, 0, dtype=torch.int64)
SCORES = torch.tensor([[0.0, 1.0, -0.5, 2.0, 0.3]], dtype=torch.float64)  # column 0 is padding
QUERY = torch.tensor([0])


def full_softmax(
    scores: torch.Tensor, masked: torch.Tensor, target_query: torch.Tensor, item: torch.Tensor
) -> torch.Tensor:
    """(P,) cross-entropy over the whole catalog by its definition; `scores` (Q, N), `masked` (2, S) seen pairs."""
    scores = scores.clone()
    scores[:, PAD] = MASKED
    scores[masked[0], masked[1]] = MASKED
    return torch.logsumexp(scores, dim=1)[target_query] - scores[target_query, item]


def gradient(loss, scores: torch.Tensor) -> torch.Tensor:
    scores = scores.clone().requires_grad_()
    loss(scores).sum().backward()
    return scores.grad


def test_full_softmax_is_minus_log_of_the_true_share() -> None:
    loss = full_softmax(SCORES, NOTHING, QUERY, torch.tensor([3]))

    assert loss.item() == pytest.approx(-torch.log_softmax(SCORES[0, 1:], 0)[2].item())


def test_full_softmax_leaves_the_history_out() -> None:
    loss = full_softmax(SCORES, torch.tensor([[0], [1]]), QUERY, torch.tensor([3]))

    assert loss.item() == pytest.approx(-torch.log_softmax(SCORES[0, 2:], 0)[1].item())


def test_in_batch_softmax_of_the_whole_catalogue_is_the_full_softmax() -> None:
    full = gradient(lambda s: full_softmax(s, NOTHING, QUERY, torch.tensor([3])), SCORES)
    certain = torch.zeros(4, dtype=torch.float64)
    batch = gradient(lambda s: in_batch_softmax(s, certain, NOTHING, QUERY, torch.tensor([2])), SCORES[:, 1:])

    torch.testing.assert_close(batch, full[:, 1:])


def partition_gradient(sign: float) -> torch.Tensor:
    """Expectation, over every batch that can be drawn, of the gradient of the estimated partition's negatives."""
    probability = torch.tensor([0.9, 0.2, 0.5, 0.05], dtype=torch.float64)
    scores = SCORES[0, 1:].clone().requires_grad_()
    total = torch.zeros((), dtype=torch.float64)
    for code in range(16):
        held = torch.tensor([bool(code >> place & 1) for place in range(4)])
        chance = torch.where(held, probability, 1 - probability).prod()
        terms = torch.exp(scores - sign * probability.log())
        total = total + chance * terms[held].sum()
    total.backward()
    return scores.grad


def test_corrected_partition_has_the_full_gradient_in_expectation_and_the_wrong_sign_has_not() -> None:
    full = torch.exp(SCORES[0, 1:])

    torch.testing.assert_close(partition_gradient(sign=1.0), full)
    assert not torch.allclose(partition_gradient(sign=-1.0), full, rtol=0.1)


def mean_gradient(correction: float) -> torch.Tensor:
    """Mean gradient of the in-batch loss over many drawn batches, spread out to the catalogue.

    200 items, each in a batch with its own probability; the true one always is.
    """
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(1, 200, generator=generator, dtype=torch.float64)
    probability = 0.1 + 0.8 * torch.rand(200, generator=generator, dtype=torch.float64)
    probability[7] = 1.0
    total = torch.zeros(200, dtype=torch.float64)
    for _ in range(400):
        held = (torch.rand(200, generator=generator, dtype=torch.float64) < probability).nonzero()[:, 0]
        column = (held == 7).nonzero()[0]
        log_p = correction * probability[held].log()
        total[held] += gradient(lambda s: in_batch_softmax(s, log_p, NOTHING, QUERY, column), scores[:, held])[0]  # noqa: B023
    full = gradient(lambda s: full_softmax(torch.cat([s[:, :1] * 0, s], 1), NOTHING, QUERY, torch.tensor([8])), scores)
    return (total / 400 - full[0]).abs().sum() / full.abs().sum()


def test_in_batch_gradient_is_near_the_full_one_only_with_the_right_correction() -> None:
    right, none, wrong = mean_gradient(1.0), mean_gradient(0.0), mean_gradient(-1.0)

    assert right < 0.04
    assert wrong > none > 3 * right


def test_accidental_hits_do_not_count_as_negatives() -> None:
    certain = torch.zeros(4, dtype=torch.float64)
    both = torch.tensor([0, 0]), torch.tensor([0, 2])
    slopes = gradient(lambda s: in_batch_softmax(s, certain, NOTHING, *both)[0], SCORES[:, 1:])

    assert slopes[0, 2] == 0, "the other true item of the same question is not pushed down"
    assert slopes[0, 1] > 0
    assert slopes[0, 3] > 0


def test_sampled_softmax_that_draws_each_item_as_expected_is_the_full_softmax() -> None:
    draws = torch.tensor([0, 0, 0, 1, 3])  # of items 1, 1, 1, 2, 4: three, one and one expected draws
    expected = torch.log(torch.tensor([[3.0, 3.0, 3.0, 1.0, 1.0]], dtype=torch.float64))
    full = gradient(lambda s: full_softmax(s, NOTHING, QUERY, torch.tensor([3])), SCORES)
    sampled = gradient(lambda s: sampled_softmax(s[:, 2], s[:, draws], expected), SCORES[:, 1:])

    torch.testing.assert_close(sampled, full[:, 1:])


def test_a_masked_draw_adds_nothing() -> None:
    positive, negative = torch.tensor([0.4]), torch.tensor([[0.2, MASKED]])

    assert binary_cross_entropy(positive, negative) == binary_cross_entropy(positive, negative[:, :1])
    zero = torch.zeros(1, 2)
    assert sampled_softmax(positive, negative, zero) == sampled_softmax(positive, negative[:, :1], zero[:, :1])


def test_binary_cross_entropy_by_hand() -> None:
    loss = binary_cross_entropy(torch.tensor([0.0]), torch.tensor([[0.0, 0.0]]))

    assert loss.item() == pytest.approx(3 * 0.6931472)  # three coin tosses, log 2 each


QUERIES, ITEMS, WIDTH, CHANNELS, MOMENTS = 37, 23, 5, 3, 4


@pytest.mark.parametrize("cells", [1, 7 * ITEMS, 10**6])  # one query a slice, some, all
def test_slices_give_the_value_and_the_gradient_of_the_whole(cells: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(losses, "MAX_SCORES", cells)
    generator = torch.Generator().manual_seed(cells)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    def whole(high: int, count: int, low: int = 0) -> torch.Tensor:
        return torch.randint(low, high, (count,), generator=generator)

    leaves = [normal(QUERIES, WIDTH), normal(ITEMS, WIDTH), normal(ITEMS), normal(QUERIES, CHANNELS)]
    factors = Factors(*(leaf.requires_grad_() for leaf in leaves))
    trends, moment = normal(MOMENTS, CHANNELS, ITEMS), whole(MOMENTS, QUERIES)
    cells_of = torch.unique(whole(QUERIES * (ITEMS - 1), 80))  # (query, item) once each, never PAD
    query, item = cells_of // (ITEMS - 1), cells_of % (ITEMS - 1) + 1
    masked, query, item = torch.stack([query[::2], item[::2]]), query[1::2], item[1::2]
    weight = torch.rand(len(item), generator=generator, dtype=torch.float64)

    ours = losses.factored_softmax(factors, trends, moment, losses.Targets(query, item, weight, masked))
    scores = add_trends(torch.addmm(factors.bias, factors.user, factors.item.T), factors.trend_weights, trends, moment)
    plain = (full_softmax(scores, masked, query, item) * weight).sum()

    torch.testing.assert_close(ours, plain)
    for mine, theirs in zip(
        torch.autograd.grad(3 * ours, factors), torch.autograd.grad(3 * plain, factors), strict=True
    ):
        torch.testing.assert_close(mine, theirs)


COUNTS = np.array([99, 1, 4, 16, 0])  # of padding, which must never be drawn, then four items


@pytest.mark.parametrize(
    ("alpha", "expected"),
    [
        (0.0, [0, 1 / 4, 1 / 4, 1 / 4, 1 / 4]),
        (0.5, [0, 1 / 8, 2 / 8, 4 / 8, 1 / 8]),
        (1.0, [0, 1 / 22, 4 / 22, 16 / 22, 1 / 22]),
    ],
)
def test_items_are_drawn_by_popularity_to_the_alpha(alpha: float, expected: list[float]) -> None:
    sampler = NegativeSampler(COUNTS, alpha, seed=0)
    drawn = sampler.draw(2000, 10)

    shares = np.bincount(drawn.flatten().numpy(), minlength=5) / 20_000
    np.testing.assert_allclose(shares, expected, atol=0.015)
    np.testing.assert_allclose(sampler.probability.numpy(), expected)


def test_expected_draws_are_probability_times_draws() -> None:
    sampler = NegativeSampler(COUNTS, 1.0, seed=0)

    assert sampler.log_expected(torch.tensor([2]), 11).exp().item() == pytest.approx(11 * 4 / 22)


def test_the_same_seed_draws_the_same() -> None:
    first, again, other = (NegativeSampler(COUNTS, 0.5, seed).draw(50, 4) for seed in (3, 3, 4))

    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_streaming_frequency_finds_how_often_a_batch_holds_an_item() -> None:
    rng = np.random.default_rng(0)
    true = np.array([0.5, 0.8, 0.25, 0.1])
    frequency = StreamingFrequency(np.full(4, 0.5), rate=0.01)
    for _ in range(8000):
        frequency.update(torch.from_numpy(np.flatnonzero(rng.random(4) < true)))

    estimate = frequency.log_probability(torch.arange(4)).exp().numpy()
    np.testing.assert_allclose(estimate, true, rtol=0.3)


def test_an_item_of_every_batch_is_certain() -> None:
    frequency = StreamingFrequency(np.full(2, 0.5), rate=0.5)
    for _ in range(50):
        frequency.update(torch.tensor([1]))

    assert frequency.log_probability(torch.tensor([1])).item() == pytest.approx(0, abs=1e-6)
