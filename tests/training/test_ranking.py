"""Lists and ranks equal those of a plain sort by (score, not true, place in the vocabulary), whatever ties."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from training.models.ranking import exclude, rank

INF = float("inf")


def by_sorting(scores: list[list[float]], truth: list[tuple[int, int]], k: int):
    """The definition, row by row."""
    orders = []
    for row, values in enumerate(scores):
        true = {item for owner, item in truth if owner == row}
        orders.append(sorted(range(len(values)), key=lambda item: (-values[item], item in true, item)))
    lists = [[item if scores[row][item] != -INF else 0 for item in order[:k]] for row, order in enumerate(orders)]
    return lists, [orders[row].index(item) + 1 for row, item in truth]


@st.composite
def cases(draw):
    num_items, size = draw(st.integers(2, 12)), draw(st.integers(1, 5))
    value = st.sampled_from([-INF, -1.5, -0.0, 0.0, 0.25, 1.0, 7.0])  # few values, so that most rows hold ties
    rows = [[-INF, *draw(st.lists(value, min_size=num_items, max_size=num_items))] for _ in range(size)]
    pairs = st.tuples(st.integers(0, size - 1), st.integers(1, num_items))
    truth = draw(st.lists(pairs, unique=True, max_size=8))
    return rows, truth, draw(st.integers(1, num_items + 3))


@settings(max_examples=300, deadline=None)
@given(cases())
def test_lists_and_ranks_are_those_of_a_sort(case) -> None:
    rows, truth, k = case
    lists, ranks = by_sorting(rows, truth, k)

    top, found = rank(torch.tensor(rows), torch.tensor(truth, dtype=torch.int64).reshape(-1, 2).T, k)

    assert top.tolist() == lists
    finite = [place for place, (row, item) in enumerate(truth) if rows[row][item] != -INF]
    assert [int(found[place]) for place in finite] == [ranks[place] for place in finite]


def test_an_excluded_true_item_ranks_behind_everything_that_is_ranked() -> None:
    scores = exclude(torch.tensor([[9.0, 3.0, 2.0, 1.0]]), torch.tensor([[0], [1]]))

    _, ranks = rank(scores, torch.tensor([[0, 0], [1, 2]]), 3)

    assert ranks.tolist() == [4, 1]


def test_no_score_may_be_nan() -> None:
    with pytest.raises(ValueError, match="NaN"):
        rank(torch.tensor([[0.0, 1.0], [math.nan, 1.0]]), torch.zeros(2, 0, dtype=torch.int64), 1)
