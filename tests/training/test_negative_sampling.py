"""Negatives come as often as stated, and the streaming estimate finds the true frequency."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from training.negative_sampling import NegativeSampler, StreamingFrequency

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
