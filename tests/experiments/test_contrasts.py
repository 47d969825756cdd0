"""Contrasts: one bootstrap for the whole and its parts, Holm's correction, and the number of users that would decide."""

from __future__ import annotations

import numpy as np
import pytest

from experiments.evaluation.bootstrap import (
    ALL_CASES,
    holm,
    p_value_of_loss,
    paired,
    paired_differences,
    users_to_decide,
)

USERS, CASES = 60, 400


@pytest.fixture(scope="module")
def case_values() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """NDCG of two models on cases of 60 users."""
    rng = np.random.default_rng(0)
    user = rng.integers(0, USERS, CASES)
    theirs = rng.random(CASES)
    return theirs + rng.normal(0.05, 0.3, CASES), theirs, user


def test_the_whole_is_the_paired_bootstrap_of_all_cases(case_values) -> None:
    found = paired_differences(*case_values, {}, 0.02, 7, 500, 0.9)[ALL_CASES]

    for key, value in vars(paired(*case_values, 7, 500, 0.9)).items():
        assert found[key] == pytest.approx(value, abs=1e-12)
    assert (found["users"], found["cases"]) == (USERS, CASES)


def test_a_part_knows_only_its_own_cases(case_values) -> None:
    ours, theirs, user = case_values
    part = user < 20

    found = paired_differences(ours, theirs, user, {"first": part, "nobody": user < 0}, 0.02, 0, 500, 0.9)

    assert set(found) == {ALL_CASES, "first"}
    assert found["first"]["users"] == len(np.unique(user[part]))
    assert found["first"]["difference"] == pytest.approx((ours - theirs)[part].mean())
    assert found["first"]["relative"] == pytest.approx((ours - theirs)[part].sum() / theirs[part].sum())


def test_the_spread_is_the_standard_error_of_the_mean() -> None:
    gain = np.random.default_rng(0).normal(size=400)
    found = paired_differences(1 + gain, np.ones(400), np.arange(400), {}, 0.0, 0, 4000, 0.9)[ALL_CASES]

    assert found["spread"] == pytest.approx(gain.std() / np.sqrt(400), rel=0.05)
    assert found["relative_spread"] == pytest.approx(found["spread"])


def test_what_is_undefined_is_none_and_no_nan() -> None:
    alone = paired_differences(np.ones(3), np.zeros(3), np.zeros(3), {}, 0.0, 0, 200, 0.9)[ALL_CASES]

    assert (alone["difference"], alone["low"], alone["relative"]) == (1.0, None, None)
    assert alone["p_loss"] == 1.0


def test_cases_that_differ_in_number_are_refused() -> None:
    with pytest.raises(ValueError, match="paired cases differ in number: 3, 2, users of 3"):
        paired_differences(np.ones(3), np.ones(2), np.zeros(3), {}, 0.0, 0, 200, 0.9)


def test_a_loss_beyond_the_margin_is_significant_and_one_within_it_is_not(case_values) -> None:
    _, theirs, user = case_values

    def p(loss: float) -> float:
        noise = np.random.default_rng(1).normal(0, 0.02, CASES)
        return paired_differences(theirs * (1 - loss) + noise, theirs, user, {}, 0.02, 0, 500, 0.9)[ALL_CASES]["p_loss"]

    assert p(0.10) < 0.001
    assert p(0.01) > 0.5


def test_few_users_show_no_more_than_a_sign_test_could() -> None:
    p = p_value_of_loss(np.array([-1.0, -1.0, -1.0]), np.array([0.0, 0.0, 0.0]), np.array([1, 3, 10]))

    assert p.tolist() == [1.0, 1 / 8, 1 / 1024]


def test_holm_multiplies_the_smallest_by_all_and_never_falls() -> None:
    # Sorted .01, .02, .03, .04 times 4, 3, 2, 1 is .04, .06, .06, .04; the last may not be below the one before it.
    assert holm([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_the_users_that_would_decide_are_those_of_the_normal_formula() -> None:
    # (1.6449 + 0.8416)^2 = 6.183; 100 users with a spread of .02, .01 from the bar: 100 * 6.183 * (.02 / .01)^2.
    found = {"users": 100, "relative": 0.01, "relative_spread": 0.02}

    assert users_to_decide(found, 0.0, 0.05, 0.8) == pytest.approx(2473, abs=1)
    assert users_to_decide(found, -0.01, 0.05, 0.8) == pytest.approx(619, abs=1)
    assert users_to_decide(found | {"relative": 0.0}, 0.0, 0.05, 0.8) is None
    assert users_to_decide(found | {"relative_spread": None}, 0.0, 0.05, 0.8) is None
