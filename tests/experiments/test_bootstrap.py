"""Intervals by resampling users."""

from __future__ import annotations

import numpy as np
import pytest

from experiments.evaluation import bootstrap
from experiments.evaluation.bootstrap import UserTotals, intervals, paired, resample_weights


def interval(values, user, seed=0, resamples=1000):
    names, row = np.unique(user, return_inverse=True)
    found = intervals(UserTotals.from_cases(np.asarray(values, float)[:, None], row, len(names)), seed, resamples)
    return tuple(float(column[0]) for column in found)


def test_every_resample_draws_as_many_users_as_there_are():
    drawn = np.concatenate(list(resample_weights(37, 200, seed=1)))
    assert drawn.shape == (200, 37)
    assert (drawn.sum(axis=1) == 37).all()
    assert drawn.mean() == pytest.approx(1)
    assert drawn.var() == pytest.approx(1 - 1 / 37, abs=0.05)  # multinomial


def test_blocks_add_up_to_the_resamples_asked_for(monkeypatch):
    monkeypatch.setattr(bootstrap, "MAX_WEIGHTS", 100)
    blocks = list(resample_weights(37, 11, seed=1))
    assert [len(block) for block in blocks] == [2, 2, 2, 2, 2, 1]


def test_the_mean_is_over_cases_and_beside_it_over_users():
    values = np.array([1.0, 1.0, 1.0, 0.0])  # three cases of user 0, one of user 1
    totals = UserTotals.from_cases(values[:, None], np.array([0, 0, 0, 1]), 2)
    assert intervals(totals, 0, 100).mean[0] == pytest.approx(3 / 4)
    assert intervals(totals.by_user(), 0, 100).mean[0] == pytest.approx((1 + 0) / 2)


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    rng, users, covered = np.random.default_rng(3), 80, 0
    for trial in range(300):
        level = rng.normal(0.3, 0.1, users)  # users differ, their cases are noisy
        user = np.repeat(np.arange(users), rng.integers(1, 12, users))
        _, low, high = interval(level[user] + rng.normal(0, 0.2, len(user)), user, seed=trial, resamples=400)
        covered += low <= 0.3 <= high
    assert 0.90 <= covered / 300 <= 0.98


def test_resampling_cases_instead_of_users_would_not_cover():
    rng, users, covered = np.random.default_rng(3), 80, 0
    for trial in range(40):
        level = rng.normal(0.3, 0.1, users)
        user = np.repeat(np.arange(users), 20)
        values = level[user] + rng.normal(0, 0.02, len(user))
        _, low, high = interval(values, np.arange(len(user)), seed=trial, resamples=200)
        covered += low <= 0.3 <= high
    assert covered / 40 < 0.6


def test_repeating_every_case_of_a_user_buys_no_certainty():
    rng = np.random.default_rng(0)
    user = rng.integers(0, 50, 300)
    values = rng.random(300)
    assert interval(np.repeat(values, 7), np.repeat(user, 7)) == pytest.approx(interval(values, user))


def test_the_order_of_cases_does_not_matter():
    rng = np.random.default_rng(0)
    user, values = rng.integers(0, 50, 300), rng.random(300)
    order = rng.permutation(300)
    assert interval(values[order], user[order]) == pytest.approx(interval(values, user))


def test_the_same_seed_gives_the_same_interval_and_another_seed_another():
    rng = np.random.default_rng(0)
    user, values = rng.integers(0, 50, 300), rng.random(300)
    assert interval(values, user, seed=1) == interval(values, user, seed=1)
    assert interval(values, user, seed=1) != interval(values, user, seed=2)


def test_undefined_cases_count_nowhere():
    values, user = np.array([1.0, np.nan, 0.0, np.nan]), np.array([0, 0, 1, 1])
    assert interval(values, user) == interval(values[[0, 2]], user[[0, 2]])
    assert interval(values, user)[0] == pytest.approx(1 / 2)


def test_one_user_alone_has_a_mean_and_no_interval():
    mean, low, high = interval([0.5, 0.7], np.array([4, 4]))
    assert mean == pytest.approx(0.6)
    assert np.isnan(low)
    assert np.isnan(high)


def test_a_model_against_itself_differs_by_exactly_zero():
    rng = np.random.default_rng(0)
    values, user = rng.random(500), rng.integers(0, 60, 500)
    found = paired(values, values.copy(), user, seed=0, resamples=500)
    assert (found.difference, found.low, found.high, found.relative) == (0, 0, 0, 0)


def test_pairing_is_narrower_than_two_intervals_side_by_side():
    rng = np.random.default_rng(0)
    user = np.repeat(np.arange(100), 3)
    hard = rng.random(100)[user]  # what both models share: some users are easy
    a, b = hard + 0.02 + rng.normal(0, 0.01, 300), hard + rng.normal(0, 0.01, 300)
    found = paired(a, b, user, seed=0, resamples=1000)
    assert found.low > 0
    assert interval(a, user)[1] < interval(b, user)[2]  # the separate intervals overlap
    assert found.difference == pytest.approx(a.mean() - b.mean())
    assert found.relative == pytest.approx((a.mean() - b.mean()) / b.mean())
    assert found.relative_low < found.relative < found.relative_high


def test_the_difference_turns_its_sign_with_the_models():
    rng = np.random.default_rng(0)
    a, b, user = rng.random(200), rng.random(200), rng.integers(0, 30, 200)
    one, other = paired(a, b, user, 5, 400), paired(b, a, user, 5, 400)
    assert (one.low, one.high) == pytest.approx((-other.high, -other.low))


def test_relative_to_nothing_is_undefined():
    found = paired(np.ones(4), np.zeros(4), np.arange(4), 0, 100)
    assert found.difference == 1
    assert np.isnan(found.relative)


def test_cases_of_unequal_number_are_refused():
    with pytest.raises(ValueError, match="differ in number: 2, 3, users of 3"):
        paired(np.ones(2), np.ones(3), np.arange(3), 0, 100)
