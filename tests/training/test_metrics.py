"""Ranking metrics against numbers worked by hand."""

from __future__ import annotations

from math import log2

import numpy as np
import pytest

from training.metrics import NOT_RANKED, TrueRanks, accuracy, average_precision, hit_rate, mrr, ndcg, recall


def of(*ranks):
    """One case with these ranks of its true items."""
    return TrueRanks.of([list(ranks)])


def test_recall_divides_by_what_a_list_of_k_can_hold():
    assert recall(of(1, 4, 12), 10)[0] == pytest.approx(2 / 3)
    assert recall(of(1, 2, 7, 9, 30), 2)[0] == pytest.approx(2 / 2)
    assert recall(of(1, 3, 7, 9, 30), 2)[0] == pytest.approx(1 / 2)


def test_hit_rate_is_one_for_any_hit_and_counts_rank_k_itself():
    assert hit_rate(of(10, 50), 10)[0] == 1
    assert hit_rate(of(11, 50), 10)[0] == 0


def test_ndcg_of_one_true_item_is_its_discount():
    assert ndcg(of(1), 10)[0] == pytest.approx(1)
    assert ndcg(of(3), 10)[0] == pytest.approx(1 / 2)  # 1 / log2(3 + 1)
    assert ndcg(of(10), 10)[0] == pytest.approx(1 / log2(11))
    assert ndcg(of(11), 10)[0] == 0


def test_ndcg_of_several_true_items_is_relative_to_the_ideal_list():
    ideal = 1 / log2(2) + 1 / log2(3) + 1 / log2(4)
    assert ndcg(of(2, 5, 40), 10)[0] == pytest.approx((1 / log2(3) + 1 / log2(6)) / ideal)


def test_the_ideal_list_is_no_longer_than_k():
    assert ndcg(of(2, 1, 3, 4), 2)[0] == pytest.approx(1)
    assert ndcg(of(2, 9, 30, 40), 2)[0] == pytest.approx((1 / log2(3)) / (1 / log2(2) + 1 / log2(3)))


def test_mrr_takes_the_first_hit_within_a_hundred():
    assert mrr(of(40, 4))[0] == pytest.approx(1 / 4)
    assert mrr(of(100))[0] == pytest.approx(1 / 100)
    assert mrr(of(101))[0] == 0


def test_average_precision_divides_by_what_a_list_of_k_can_hold():
    assert average_precision(of(5, 1), 10)[0] == pytest.approx((1 / 1 + 2 / 5) / 2)
    assert average_precision(of(5, 1, 20), 10)[0] == pytest.approx((1 / 1 + 2 / 5) / 3)
    assert average_precision(of(1, 2, 3, 4), 2)[0] == pytest.approx((1 / 1 + 2 / 2) / 2)


def test_an_item_that_was_never_ranked_is_a_miss_that_counts():
    assert recall(of(1, NOT_RANKED), 10)[0] == pytest.approx(1 / 2)
    assert ndcg(of(NOT_RANKED), 100)[0] == 0
    assert mrr(of(NOT_RANKED))[0] == 0


def test_cases_of_unequal_size_do_not_touch_each_other():
    together = TrueRanks.of([[3], [9, 1, 70], [101]])
    for metric in (recall, hit_rate, ndcg, average_precision):
        alone = [metric(of(*ranks), 10)[0] for ranks in ([3], [9, 1, 70], [101])]
        assert metric(together, 10) == pytest.approx(alone)


def test_single_is_the_same_as_lists_of_one():
    rank = np.array([1, 5, 11, 200])
    single, lists = (
        accuracy(TrueRanks.single(rank), [5, 10]),
        accuracy(TrueRanks.of([[r] for r in rank]), [5, 10]),
    )
    assert all(np.array_equal(single[key], lists[key]) for key in lists)


def test_a_case_without_truth_is_undefined_and_not_zero():
    for values in accuracy(TrueRanks.of([[], [1]]), [10]).values():
        assert np.isnan(values[0])
        assert values[1] == 1


def test_keep_cuts_the_truth_but_leaves_the_ranks():
    part = TrueRanks.of([[2, 5], [1]]).keep(np.array([False, True, False]))
    assert recall(part, 10)[0] == 1
    assert mrr(part)[0] == pytest.approx(1 / 5)
    assert np.isnan(recall(part, 10)[1])


def test_rank_zero_is_refused():
    with pytest.raises(ValueError, match="a rank is 0; ranks start at 1"):
        of(3, 0)


def test_no_cases_give_no_values():
    assert all(len(values) == 0 for values in accuracy(TrueRanks.of([]), [10]).values())
