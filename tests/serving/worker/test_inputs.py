"""Two readings have the same digests where a model reads the same, and others where it does not."""

from __future__ import annotations

import numpy as np
import pytest

from features.trends import TrendSnapshot
from serving.worker import response
from serving.worker.request import Request
from serving.worker.users import Person


def of(person: Person, context: dict | None = None) -> dict[str, str]:
    request = Request("ann", [], stated=False, k=3, time_us=9, context=context or {}, request_id=None)
    return response.of(request, person, "trends")


def test_the_same_history_has_the_same_digest_whatever_holds_it() -> None:
    one, other = of(Person(["a", "b"], [1, 2], {"x": 1, "y": 2})), of(Person(("a", "b"), (1, 2), {"y": 2, "x": 1}))

    assert one == other
    assert one["trends"] == "trends"


@pytest.mark.parametrize(
    ("person", "part"),
    [
        (Person(["b", "a"], [1, 2], {"plan": "free"}), "history"),
        (Person(["a", "b"], [1, 3], {"plan": "free"}), "history"),
        (Person(["a"], [1], {"plan": "free"}), "history"),
        (Person(["a", "b"], [1, 2], {"plan": "paid"}), "traits"),
        (Person(["a", "b"], [1, 2]), "traits"),
    ],
)
def test_each_part_tells_its_own_change_alone(person: Person, part: str) -> None:
    before, after = of(Person(["a", "b"], [1, 2], {"plan": "free"})), of(person)

    assert [name for name in before if before[name] != after[name]] == [part]


def test_what_a_request_states_of_traits_counts_as_they_do() -> None:
    assert of(Person(traits={"plan": "paid"})) == of(Person(traits={"plan": "free"}), {"plan": "paid"})
    assert of(Person())["traits"] == of(Person(traits={}), {})["traits"] == response.NOTHING


@pytest.mark.parametrize("odd", ["\ud800", 2**70])
def test_what_json_writes_with_trouble_has_a_digest_too(odd: object) -> None:
    assert of(Person(traits={"plan": odd})) == of(Person(traits={"plan": odd})) != of(Person())


def test_trends_are_those_that_the_model_reads_and_their_moment() -> None:
    values = np.arange(6, dtype=np.float32).reshape(3, 2)
    one = TrendSnapshot(values, ["all", "window_7d"], 5)
    read = response.of_trends(one, ["all"])

    assert read == response.of_trends(TrendSnapshot(values[:, ::-1], ["window_7d", "all"], 5), ["all"])
    assert read != response.of_trends(one, ["window_7d"])
    assert read != response.of_trends(TrendSnapshot(values, ["all", "window_7d"], 6), ["all"])
    assert response.of_trends(one, []) == ""


def test_what_computed_is_named_by_its_processor_and_libraries() -> None:
    import torch

    assert f"torch {torch.__version__}" in response.described()
    assert torch.backends.cpu.get_cpu_capability() in response.described()
