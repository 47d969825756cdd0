"""A live answer must be the golden one: items, order, scores."""

from __future__ import annotations

import pytest

from serving.worker.response import TOLERANCE, difference


def answer(*scored: tuple[str, float]) -> dict:
    return {"items": [{"item_id": item, "score": score} for item, score in scored]}


GOLDEN = answer(("a", 100.0), ("b", 0.5))


def test_the_same_answer_has_no_difference() -> None:
    assert difference(GOLDEN, GOLDEN) is None
    assert difference(answer(), answer()) is None


def test_the_last_bits_of_a_score_may_differ() -> None:
    assert difference(GOLDEN, answer(("a", 100.0 * (1 + TOLERANCE / 2)), ("b", 0.5 + TOLERANCE / 2))) is None


def test_items_that_rounding_alone_tells_apart_may_change_places() -> None:
    close = answer(("a", 9.0), ("b", 0.5), ("c", 0.5 - TOLERANCE / 4), ("d", 0.1))
    swapped = answer(("a", 9.0), ("c", 0.5), ("b", 0.5 - TOLERANCE / 4), ("d", 0.1))
    other_end = answer(("a", 9.0), ("b", 0.5), ("c", 0.5 - TOLERANCE / 4), ("e", 0.1 + TOLERANCE / 4))

    assert difference(close, swapped) is None
    assert difference(close, other_end) is None
    assert difference(close, answer(("a", 9.0), ("b", 0.5), ("e", 0.5), ("d", 0.1)))  # not at the end: c is worth more


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
