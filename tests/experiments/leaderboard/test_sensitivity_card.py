"""The card ranks models per protocol, compares the orders and marks what is only a diagnostic."""

from __future__ import annotations

import re

import numpy as np
import pytest
from scipy.stats import kendalltau

from experiments.evaluation.bootstrap import UserTotals
from experiments.leaderboard.sensitivity_card import (
    NO_GATE,
    build_card,
    html_card,
    kendall_tau,
    kendall_tau_interval,
    markdown_card,
    plot_ranks,
    ranks,
)


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


USERS = np.array([0, 0, 1, 2])


def reached(**by_model: list[float]) -> dict:
    """What models reached on four cases of three users."""
    return {label: (np.array(values)[:, None], USERS) for label, values in by_model.items()}


FOUND = {
    "next_item": reached(a=[1, 1, 1, 1], b=[0, 0, 1, 0], c=[0, 0, 0, 0]),
    "horizon": reached(a=[0, 0, 0, 0], b=[1, 1, 1, 1], c=[0, 1, 0, 0]),
    "leave last out": reached(a=[0, 0, 0, 0], b=[0, 1, 0, 0], c=[1, 1, 1, 1]),
}
CARD = build_card(FOUND, num_users=3, seed=0, resamples=100)


def facts() -> dict:
    """A card as the verb writes it."""
    known = {"dataset": "typed <b>", "dataset_hash": "h", "split_id": "s", "valid_start": "v", "test_start": "t"}
    return known | {"commit": "c", "date": "d", "command": "x", "statement": NO_GATE} | CARD


def test_a_model_has_the_mean_of_its_cases_and_its_rank() -> None:
    assert CARD["models"]["b"]["next_item"]["mean"] == pytest.approx(1 / 4)
    assert [CARD["models"][label]["next_item"]["rank"] for label in "abc"] == [1, 2, 3]
    assert [CARD["models"][label]["leave last out"]["rank"] for label in "abc"] == [3, 2, 1]


def test_models_stand_in_the_order_of_next() -> None:
    found = {name: dict(reversed(of.items())) for name, of in FOUND.items()}

    assert list(build_card(found, 3, 0, 100)["models"]) == ["a", "b", "c"]


def test_tau_is_of_each_protocol_with_each_target_of_the_temporal_cut() -> None:
    protocols = CARD["protocols"]

    assert protocols["next_item"]["tau"]["next_item"]["tau"] == 1
    assert protocols["leave last out"]["tau"]["next_item"]["tau"] == -1  # c, b, a
    assert protocols["leave last out"]["tau"]["horizon"]["tau"] == pytest.approx(1 / 3)  # c, b, a and b, c, a


def test_only_the_temporal_cut_can_feed_a_gate() -> None:
    assert {name for name, one in CARD["protocols"].items() if one["can_feed_a_gate"]} == {"next_item", "horizon"}


def test_a_protocol_without_cases_is_left_out() -> None:
    empty = {label: (np.zeros((0, 1)), np.zeros(0, np.int64)) for label in "abc"}

    assert "user k-fold" not in build_card(FOUND | {"user k-fold": empty}, 3, 0, 100)["protocols"]


@pytest.mark.parametrize("write", [html_card, markdown_card])
def test_the_card_says_that_all_but_the_temporal_cut_are_diagnostics(write) -> None:
    assert "Every other protocol on this page is a diagnostic and cannot feed a gate." in write(facts())


def test_the_page_fetches_nothing_and_shows_names_as_they_are() -> None:
    page = html_card(facts())

    assert not re.findall(r"<(?:script|link|img)[^>]+(?:src|href)=", page)
    assert "Split sensitivity of typed &lt;b&gt;" in page


def test_the_bump_chart_draws_the_rank_of_every_model_under_every_protocol() -> None:
    lines = {line.name: dict(zip(line.x, line.y, strict=True)) for line in plot_ranks(facts()).data}

    assert lines == {label: {name: entry["rank"] for name, entry in of.items()} for label, of in CARD["models"].items()}
