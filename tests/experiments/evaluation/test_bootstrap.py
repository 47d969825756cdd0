"""Intervals and paired differences come from resampling users with all their cases."""

from __future__ import annotations

import numpy as np
import pytest

from experiments.evaluation import bootstrap
from experiments.evaluation.bootstrap import (
    ALL_CASES,
    UserTotals,
    holm,
    intervals,
    p_value_of_loss,
    paired_differences,
    resample_weights,
    users_to_decide,
    wilson_interval,
)

USERS, CASES = 60, 400


def interval(values, user, seed=0, resamples=1000):
    """Mean, low and high of one metric."""
    names, row = np.unique(user, return_inverse=True)
    totals = UserTotals.from_cases(np.asarray(values, float)[:, None], row, len(names))
    return tuple(float(column[0]) for column in intervals(totals, seed, resamples))


def difference(ours, theirs, user, seed=0, resamples=500, level=0.95, margin=0.0):
    """The paired difference over all cases."""
    return paired_differences(ours, theirs, user, {}, margin, seed, resamples, level)[ALL_CASES]


@pytest.fixture
def random_cases() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.random(300), rng.integers(0, 50, 300)


@pytest.fixture(scope="module")
def case_values() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A metric of two models on cases of 60 users."""
    rng = np.random.default_rng(0)
    user = rng.integers(0, USERS, CASES)
    theirs = rng.random(CASES)
    return theirs + rng.normal(0.05, 0.3, CASES), theirs, user


def test_every_resample_draws_as_many_users_as_there_are():
    drawn = np.concatenate(list(resample_weights(37, 200, seed=1)))
    assert drawn.shape == (200, 37)
    assert (drawn.sum(axis=1) == 37).all()
    assert drawn.mean() == pytest.approx(1)
    assert drawn.var() == pytest.approx(1 - 1 / 37, abs=0.05)  # multinomial


def test_blocks_add_up_to_the_number_of_resamples(monkeypatch):
    monkeypatch.setattr(bootstrap, "MAX_WEIGHTS", 100)
    blocks = list(resample_weights(37, 11, seed=1))
    assert [len(block) for block in blocks] == [2, 2, 2, 2, 2, 1]


def test_a_mean_is_over_cases_and_the_mean_of_user_means_over_users():
    values = np.array([1.0, 1.0, 1.0, 0.0])  # three cases of user 0, one of user 1
    totals = UserTotals.from_cases(values[:, None], np.array([0, 0, 0, 1]), 2)
    assert intervals(totals, 0, 100).mean[0] == pytest.approx(3 / 4)
    assert intervals(totals.averaged_by_user(), 0, 100).mean[0] == pytest.approx((1 + 0) / 2)


def test_a_95_percent_interval_covers_the_truth_about_as_often():
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


def test_repeating_every_case_does_not_narrow_the_interval(random_cases):
    values, user = random_cases
    assert interval(np.repeat(values, 7), np.repeat(user, 7)) == pytest.approx(interval(values, user))


def test_the_order_of_cases_does_not_matter(random_cases):
    values, user = random_cases
    order = np.random.default_rng(1).permutation(300)
    assert interval(values[order], user[order]) == pytest.approx(interval(values, user))


def test_the_same_seed_gives_the_same_interval_and_another_seed_another(random_cases):
    assert interval(*random_cases, seed=1) == interval(*random_cases, seed=1)
    assert interval(*random_cases, seed=1) != interval(*random_cases, seed=2)


def test_undefined_cases_are_left_out():
    values, user = np.array([1.0, np.nan, 0.0, np.nan]), np.array([0, 0, 1, 1])
    assert interval(values, user) == interval(values[[0, 2]], user[[0, 2]])
    assert interval(values, user)[0] == pytest.approx(1 / 2)


def test_one_user_alone_has_a_mean_and_no_interval():
    mean, low, high = interval([0.5, 0.7], np.array([4, 4]))
    assert mean == pytest.approx(0.6)
    assert np.isnan(low)
    assert np.isnan(high)


def test_a_share_without_trials_may_be_anything():
    assert wilson_interval(0, 0) == (0.0, 1.0)
    low, high = wilson_interval(8, 10)
    assert low < 0.8 < high


def test_a_model_against_itself_differs_by_exactly_zero(random_cases):
    values, user = random_cases
    same = difference(values, values.copy(), user)
    assert [same[key] for key in ("difference", "low", "high", "relative")] == [0, 0, 0, 0]


def test_pairing_is_narrower_than_two_separate_intervals():
    rng = np.random.default_rng(0)
    user = np.repeat(np.arange(100), 3)
    hard = rng.random(100)[user]  # what both models share: some users are easy
    a, b = hard + 0.02 + rng.normal(0, 0.01, 300), hard + rng.normal(0, 0.01, 300)
    paired = difference(a, b, user, resamples=1000)
    assert paired["low"] > 0
    assert interval(a, user)[1] < interval(b, user)[2]  # the separate intervals overlap
    assert paired["difference"] == pytest.approx(a.mean() - b.mean())
    assert paired["relative"] == pytest.approx((a.mean() - b.mean()) / b.mean())
    assert paired["relative_low"] < paired["relative"] < paired["relative_high"]


def test_exchanging_the_models_changes_the_sign(case_values):
    ours, theirs, user = case_values
    one, other = difference(ours, theirs, user, seed=5), difference(theirs, ours, user, seed=5)
    assert (one["low"], one["high"]) == pytest.approx((-other["high"], -other["low"]))


def test_what_is_relative_to_zero_is_none():
    found = difference(np.ones(4), np.zeros(4), np.arange(4))
    assert (found["difference"], found["relative"]) == (1.0, None)


def test_bounds_and_p_value_of_one_user_are_none_and_one():
    alone = difference(np.ones(3), np.zeros(3), np.zeros(3))
    assert (alone["difference"], alone["low"], alone["p_loss"]) == (1.0, None, 1.0)


def test_cases_of_unequal_number_are_refused():
    with pytest.raises(ValueError, match="differ in number: 2, 3, users of 3"):
        difference(np.ones(2), np.ones(3), np.arange(3))


def test_a_difference_counts_users_and_cases_and_its_bounds_are_those_of_the_interval(case_values):
    ours, theirs, user = case_values
    found = difference(ours, theirs, user, seed=7, level=0.95)

    assert (found["users"], found["cases"]) == (USERS, CASES)
    bounds = (found["difference"], found["low"], found["high"])
    assert bounds == pytest.approx(interval(ours - theirs, user, seed=7, resamples=500), abs=1e-12)


def test_a_part_depends_on_its_own_cases_only(case_values):
    ours, theirs, user = case_values
    part = user < 20

    found = paired_differences(ours, theirs, user, {"first": part, "nobody": user < 0}, 0.02, 0, 500, 0.9)

    assert set(found) == {ALL_CASES, "first"}
    assert found["first"]["users"] == len(np.unique(user[part]))
    assert found["first"]["difference"] == pytest.approx((ours - theirs)[part].mean())
    assert found["first"]["relative"] == pytest.approx((ours - theirs)[part].sum() / theirs[part].sum())


def test_the_spread_is_the_standard_error_of_the_mean():
    gain = np.random.default_rng(0).normal(size=400)
    found = difference(1 + gain, np.ones(400), np.arange(400), resamples=4000)

    assert found["spread"] == pytest.approx(gain.std() / np.sqrt(400), rel=0.05)
    assert found["relative_spread"] == pytest.approx(found["spread"])


def test_a_loss_beyond_the_margin_is_significant_and_one_within_it_is_not(case_values):
    _, theirs, user = case_values

    def p(loss: float) -> float:
        noise = np.random.default_rng(1).normal(0, 0.02, CASES)
        return difference(theirs * (1 - loss) + noise, theirs, user, margin=0.02)["p_loss"]

    assert p(0.10) < 0.001
    assert p(0.01) > 0.5


def test_few_users_show_no_more_than_a_sign_test_could():
    p = p_value_of_loss(np.array([-1.0, -1.0, -1.0]), np.array([0.0, 0.0, 0.0]), np.array([1, 3, 10]))

    assert p.tolist() == [1.0, 1 / 8, 1 / 1024]


def test_holm_multiplies_the_smallest_by_all_and_never_falls():
    # Sorted .01, .02, .03, .04 times 4, 3, 2, 1 is .04, .06, .06, .04; the last may not be below the one before it.
    assert holm([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_users_to_decide_follows_the_normal_formula():
    # (1.6449 + 0.8416)^2 = 6.183; 100 users with a spread of .02, .01 from the bar: 100 * 6.183 * (.02 / .01)^2.
    found = {"users": 100, "relative": 0.01, "relative_spread": 0.02}

    assert users_to_decide(found, 0.0, 0.05, 0.8) == pytest.approx(2473, abs=1)
    assert users_to_decide(found, -0.01, 0.05, 0.8) == pytest.approx(619, abs=1)
    assert users_to_decide(found | {"relative": 0.0}, 0.0, 0.05, 0.8) is None
    assert users_to_decide(found | {"relative_spread": None}, 0.0, 0.05, 0.8) is None
