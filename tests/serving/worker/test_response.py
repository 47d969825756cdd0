"""Responses name their inputs by digest, and a live response must equal the golden one: items, order, scores."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from features.trends import TrendSnapshot
from serving.worker.request import Request
from serving.worker.response import (
    NO_TRAITS,
    TOLERANCE,
    describe_processor,
    digest_of_trends,
    find_difference,
    input_digests,
)
from serving.worker.users import User


def scored(*items: tuple[str, float]) -> dict:
    return {"items": [{"item_id": item, "score": score} for item, score in items]}


GOLDEN = scored(("a", 100.0), ("b", 0.5))


def test_the_same_response_has_no_difference() -> None:
    assert find_difference(GOLDEN, GOLDEN) is None
    assert find_difference(scored(), scored()) is None


def test_the_last_bits_of_a_score_may_differ() -> None:
    assert find_difference(GOLDEN, scored(("a", 100.0 * (1 + TOLERANCE / 2)), ("b", 0.5 + TOLERANCE / 2))) is None


def test_items_with_scores_equal_up_to_rounding_may_change_places() -> None:
    close = scored(("a", 9.0), ("b", 0.5), ("c", 0.5 - TOLERANCE / 4), ("d", 0.1))
    swapped = scored(("a", 9.0), ("c", 0.5), ("b", 0.5 - TOLERANCE / 4), ("d", 0.1))
    other_end = scored(("a", 9.0), ("b", 0.5), ("c", 0.5 - TOLERANCE / 4), ("e", 0.1 + TOLERANCE / 4))
    not_at_the_end = scored(("a", 9.0), ("b", 0.5), ("e", 0.5), ("d", 0.1))

    assert find_difference(close, swapped) is None
    assert find_difference(close, other_end) is None
    assert find_difference(close, not_at_the_end)


@pytest.mark.parametrize(
    "other",
    [
        scored(("b", 100.0), ("a", 0.5)),
        scored(("a", 100.0)),
        scored(("a", 100.0), ("b", 0.5), ("c", 0.1)),
        scored(("a", 100.0), ("b", 0.5 + 2 * TOLERANCE)),
        scored(("a", 100.0 * (1 + 2 * TOLERANCE)), ("b", 0.5)),
        scored(("a", 100.0), ("b", float("nan"))),
    ],
)
def test_other_items_order_or_scores_are_a_difference(other: dict) -> None:
    assert find_difference(GOLDEN, other)


def digests(user: User, context: dict | None = None) -> dict[str, str]:
    request = Request("ann", [], has_history=False, k=3, time_us=9, context=context or {}, request_id=None)
    return input_digests(request, user, "trends")


def test_equal_inputs_have_equal_digests_in_any_container_and_order() -> None:
    lists = digests(User(["a", "b"], [1, 2], {"x": 1, "y": 2}))
    tuples = digests(User(("a", "b"), (1, 2), {"y": 2, "x": 1}))

    assert lists == tuples
    assert lists["trends"] == "trends"


@pytest.mark.parametrize(
    ("user", "part"),
    [
        (User(["b", "a"], [1, 2], {"plan": "free"}), "history"),
        (User(["a", "b"], [1, 3], {"plan": "free"}), "history"),
        (User(["a"], [1], {"plan": "free"}), "history"),
        (User(["a", "b"], [1, 2], {"plan": "paid"}), "traits"),
        (User(["a", "b"], [1, 2]), "traits"),
    ],
)
def test_a_change_of_one_input_changes_only_its_own_digest(user: User, part: str) -> None:
    before, after = digests(User(["a", "b"], [1, 2], {"plan": "free"})), digests(user)

    assert [name for name in before if before[name] != after[name]] == [part]


def test_the_context_of_a_request_counts_as_traits() -> None:
    assert digests(User(traits={"plan": "paid"})) == digests(User(traits={"plan": "free"}), {"plan": "paid"})
    assert digests(User())["traits"] == digests(User(traits={}), {})["traits"] == NO_TRAITS


@pytest.mark.parametrize("odd", ["\ud800", 2**70])
def test_values_that_orjson_refuses_have_a_digest_too(odd: object) -> None:
    assert digests(User(traits={"plan": odd})) == digests(User(traits={"plan": odd})) != digests(User())


def test_the_digest_of_trends_covers_the_channels_that_the_model_reads_and_their_time() -> None:
    values = np.arange(6, dtype=np.float32).reshape(3, 2)
    channels = ["all", "window_7d"]
    snapshot = TrendSnapshot(values, channels, 5)
    digest = digest_of_trends(snapshot, ["all"])

    assert digest == digest_of_trends(TrendSnapshot(values[:, ::-1], channels[::-1], 5), ["all"])
    assert digest != digest_of_trends(snapshot, ["window_7d"])
    assert digest != digest_of_trends(TrendSnapshot(values, channels, 6), ["all"])
    assert digest_of_trends(snapshot, []) == ""


def test_the_processor_is_described_with_its_libraries() -> None:
    assert f"torch {torch.__version__}" in describe_processor()
    assert torch.backends.cpu.get_cpu_capability() in describe_processor()
