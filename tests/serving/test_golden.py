"""A live answer must be the golden one: items, order, scores."""

from __future__ import annotations

import pytest

from serving.golden import TOLERANCE, difference


def answer(*scored: tuple[str, float]) -> dict:
    return {"items": [{"item_id": item, "score": score} for item, score in scored]}


GOLDEN = answer(("a", 100.0), ("b", 0.5))


def test_the_same_answer_has_no_difference() -> None:
    assert difference(GOLDEN, GOLDEN) is None
    assert difference(answer(), answer()) is None


def test_the_last_bits_of_a_score_may_differ() -> None:
    assert difference(GOLDEN, answer(("a", 100.0 * (1 + TOLERANCE / 2)), ("b", 0.5 + TOLERANCE / 2))) is None


@pytest.mark.parametrize(
    "other",
    [
        answer(("b", 100.0), ("a", 0.5)),
        answer(("a", 100.0)),
        answer(("a", 100.0), ("b", 0.5), ("c", 0.1)),
        answer(("a", 100.0), ("b", 0.5 + 2 * TOLERANCE)),
        answer(("a", 100.0 * (1 + 2 * TOLERANCE)), ("b", 0.5)),
        answer(("a", 100.0), ("b", float("nan"))),
    ],
)
def test_other_items_order_or_scores_are_a_difference(other: dict) -> None:
    assert difference(GOLDEN, other)
