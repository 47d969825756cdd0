"""Ranks and Kendall's kendall_tau say what a count by hand says."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import kendalltau

from experiments.evaluation.bootstrap import UserTotals
from experiments.leaderboard.sensitivity_card import kendall_tau, kendall_tau_interval, ranks


def test_the_highest_is_first_and_equals_share_the_better_rank() -> None:
    assert ranks(np.array([0.1, 0.4, 0.4, 0.2])).tolist() == [4, 1, 1, 3]


def test_tau_is_pairs_in_the_same_order_less_those_in_the_other_over_all() -> None:
    # Of the three pairs only that of the last two turns round: (2 - 1) / 3.
    assert kendall_tau(np.array([3.0, 2.0, 1.0]), np.array([3.0, 1.0, 2.0])) == pytest.approx(1 / 3)


def test_tau_of_an_order_and_its_reverse() -> None:
    order = np.array([0.3, 0.1, 0.2])

    assert kendall_tau(order, order) == 1
    assert kendall_tau(order, -order) == -1


def test_a_pair_that_is_equal_counts_nothing() -> None:
    assert kendall_tau(np.array([1.0, 1.0, 2.0]), np.array([1.0, 2.0, 3.0])) == pytest.approx(2 / 3)


def test_tau_agrees_with_scipy_where_nothing_is_equal() -> None:
    one, other = np.random.default_rng(0).normal(size=(2, 9))

    assert kendall_tau(one, other) == pytest.approx(kendalltau(one, other).statistic)


def test_an_order_that_every_user_shares_has_no_width_and_one_that_hangs_on_a_user_has() -> None:
    counts = np.ones((20, 2))
    clear = UserTotals(np.tile([1.0, 0.0], (20, 1)), counts)
    close = UserTotals(np.array([[1.0, 0.0]] * 10 + [[0.0, 1.0]] * 10), counts)

    assert kendall_tau_interval(clear, clear, seed=0, resamples=200) == (1, 1)
    assert kendall_tau_interval(clear, close, seed=0, resamples=200) == (-1, 1)


def test_the_same_users_are_drawn_under_both_protocols() -> None:
    # Whoever is drawn decides the order, but decides it for both alike.
    close = UserTotals(np.array([[1.0, 0.0]] * 11 + [[0.0, 1.0]] * 10), np.ones((21, 2)))

    assert kendall_tau_interval(close, close, seed=0, resamples=200) == (1, 1)
