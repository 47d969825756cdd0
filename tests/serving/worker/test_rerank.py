"""Diversity changes the order, limits skip items, and nothing is lost or repeated."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.worker.rerank import ItemLimit, normalize, rerank

ROWS = [3, 1, 4, 2]
SCORES = [1.0, 0.9, 0.5, 0.0]
VECTORS = normalize(
    np.array([[0, 0], [1, 0], [0, 1], [1, 0], [0, 1]], dtype=float)
)  # 1 and 3 are equal, and so are 2 and 4


def test_without_diversity_and_limits_the_scores_decide() -> None:
    assert rerank(ROWS, SCORES, 3, 0.0, None, []) == [0, 1, 2]


def test_the_second_place_goes_to_an_item_unlike_the_first() -> None:
    # After item 3: item 1 has .5 * .9 - .5 * 1 = -.05, item 4 has .5 * .5 - 0 = .25, item 2 has 0.
    assert rerank(ROWS, SCORES, 4, 0.5, VECTORS, []) == [0, 2, 1, 3]


def test_a_little_diversity_does_not_overturn_a_clear_preference() -> None:
    # Item 1: .9 * .9 - .1 = .71; item 4: .9 * .5 = .45.
    assert rerank(ROWS, SCORES, 2, 0.1, VECTORS, []) == [0, 1]


def test_the_scale_of_the_scores_does_not_matter() -> None:
    scaled = [100 * score - 7 for score in SCORES]

    assert rerank(ROWS, scaled, 4, 0.5, VECTORS, []) == rerank(ROWS, SCORES, 4, 0.5, VECTORS, [])


def test_an_item_without_content_is_similar_to_nothing() -> None:
    blank = np.zeros_like(VECTORS)

    assert rerank(ROWS, SCORES, 4, 0.9, blank, []) == [0, 1, 2, 3]


def test_an_item_that_would_break_a_limit_is_skipped() -> None:
    limit = ItemLimit(frozenset({1, 3}), items=1)

    assert rerank(ROWS, SCORES, 4, 0.0, None, [limit]) == [0, 2, 3]


def test_a_limit_of_zero_skips_all_its_items() -> None:
    assert rerank(ROWS, SCORES, 4, 0.0, None, [ItemLimit(frozenset({3}), 0), ItemLimit(frozenset({2}), 0)]) == [1, 2]


def test_an_item_under_two_limits_needs_room_in_both() -> None:
    both = [ItemLimit(frozenset({3, 1}), 2), ItemLimit(frozenset({1}), 0)]

    assert rerank(ROWS, SCORES, 4, 0.0, None, both) == [0, 2, 3]


@pytest.mark.parametrize("diversity", [0.0, 0.3, 1.0])
@given(st.lists(st.floats(-5, 5), max_size=30), st.integers(1, 40))
def test_no_item_is_repeated_or_lost(diversity: float, scores: list[float], k: int) -> None:
    rows = list(range(1, len(scores) + 1))
    vectors = np.random.default_rng(0).normal(size=(len(scores) + 1, 3))

    found = rerank(rows, sorted(scores, reverse=True), k, diversity, normalize(vectors), [])

    assert len(found) == len(set(found)) == min(k, len(rows))
