"""List metrics against numbers worked by hand."""

from __future__ import annotations

import numpy as np
import pytest

from experiments.evaluation.measure import (
    count_items,
    coverage,
    diversity,
    gini,
    list_means,
    personalization,
    personalization_bounds,
)

EVERY = np.ones(4, bool)


def test_counts_look_at_the_first_k_and_skip_empty_places():
    assert count_items(np.array([[0, 1, 2], [1, -1, -1]]), 2, 4).tolist() == [1, 2, 0, 0]


def test_coverage_is_the_share_of_the_catalogue_shown():
    assert coverage(np.array([3, 0, 1, 0]), EVERY) == 2 / 4
    assert coverage(np.array([3, 0, 1, 9]), np.array([True, True, True, False])) == 2 / 3


def test_gini_is_zero_for_equals_and_nearly_one_for_a_monopoly():
    assert gini(np.array([5, 5, 5, 5]), EVERY) == 0
    assert gini(np.array([0, 0, 8, 0]), EVERY) == pytest.approx(3 / 4)


def test_gini_by_its_definition_as_mean_absolute_difference():
    x = np.array([1, 2, 3, 6])
    pairs = sum(abs(a - b) for a in x for b in x)
    assert gini(x, EVERY) == pytest.approx(pairs / (2 * 4 * 4 * x.mean()))


def test_gini_of_no_recommendation_is_undefined():
    assert np.isnan(gini(np.zeros(4, int), EVERY))


def test_list_means_divide_by_the_items_that_are_there():
    means = list_means(np.array([[0, 3, 1], [2, -1, -1], [-1, -1, -1]]), np.array([1.0, 2.0, 4.0, 8.0]), 2)
    assert means[:2].tolist() == [(1 + 8) / 2, 4]
    assert np.isnan(means[2])


def test_diversity_is_one_minus_the_mean_cosine_of_pairs():
    unit = np.array([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0], [0.0, 0.0]])
    found = diversity(np.array([[0, 1, 2], [0, 3, -1], [0, 0, -1], [1, -1, -1]]), unit, 3)
    assert found[0] == pytest.approx(1 - (0.6 + 0.0 + 0.8) / 3)
    assert found[1] == pytest.approx(1)  # no content: like no other
    assert found[2] == pytest.approx(0)
    assert np.isnan(found[3])


def test_personalization_is_one_minus_the_mean_overlap_of_all_pairs():
    lists = np.array([[0, 1], [1, 2], [0, 1]])  # overlaps: 1/2, 2/2, 1/2
    assert personalization(lists, 2, 4) == pytest.approx(1 - (1 / 2 + 2 / 2 + 1 / 2) / 3)


def test_personalization_of_one_list_for_all_is_zero_and_of_disjoint_lists_one():
    assert personalization(np.array([[0, 1]] * 5), 2, 4) == 0
    assert personalization(np.array([[0, 1], [2, 3]]), 2, 4) == 1


def test_personalization_of_one_user_is_undefined():
    assert np.isnan(personalization(np.array([[0, 1]]), 2, 4))


def test_the_interval_of_personalization_never_compares_a_user_with_themself():
    disjoint = np.arange(40).reshape(20, 2)
    assert personalization_bounds([disjoint], 2, seed=0, resamples=200) == (1, 1)
    same = np.array([[0, 1]] * 20)
    assert personalization_bounds([same], 2, seed=0, resamples=200) == (0, 0)


def test_the_interval_of_personalization_holds_its_value():
    lists = np.array([np.random.default_rng(n).permutation(30)[:10] for n in range(60)])
    low, high = personalization_bounds([lists], 10, seed=0, resamples=500)
    assert low < personalization(lists, 10, 30) < high
    assert high - low < 0.1
