"""What TorchServe says is passed on only where it is an answer of ours."""

from __future__ import annotations

import json

import pytest
from fake_torchserve import recommendations

from serving.edge.answer import FIELDS, Answer, digest, finish, from_worker, read, seal
from serving.edge.errors import Garbled

WHOLE = {name: value for name, value in recommendations({"user_id": "ann", "k": 2}, "1.0").items() if name in FIELDS}


def test_an_answer_of_ours_is_read_whole() -> None:
    assert from_worker(json.dumps(WHOLE).encode()) == WHOLE


@pytest.mark.parametrize("name", FIELDS)
def test_one_that_lacks_a_field_is_none(name: str) -> None:
    with pytest.raises(Garbled):
        from_worker(json.dumps({field: value for field, value in WHOLE.items() if field != name}).encode())


@pytest.mark.parametrize(
    "change",
    [
        {"rung": "gold"},
        {"reason": None},
        {"model_version": 1},
        {"items": None},
        {"items": ["a"]},
        {"items": [{"score": 1.0}]},
        {"items": [{"item_id": 7}]},
    ],
)
def test_one_whose_fields_hold_something_else_is_none(change: dict) -> None:
    with pytest.raises(Garbled):
        from_worker(json.dumps(WHOLE | change).encode())


@pytest.mark.parametrize("body", [b"", b"[]", b"null", b"7", b"<html>", b"\xff"])
def test_what_is_no_object_is_none(body: bytes) -> None:
    with pytest.raises(Garbled):
        from_worker(body)


def test_joined_bytes_are_the_same_json() -> None:
    answer = seal(WHOLE)
    assert read(answer) == WHOLE
    assert json.loads(finish(answer, {"request_id": "é"})) == WHOLE | {"request_id": "é"}
    assert Answer.unpack(answer.pack()) == answer


def test_the_receipt_holds_what_a_replay_compares_with_and_what_the_worker_said_for_it_alone() -> None:
    read_by_model = {"history": "h", "traits": "t", "trends": "r"}
    answer = seal(WHOLE | {"inputs": read_by_model, "computed_on": "this processor"})
    assert answer.body == seal(WHOLE).body
    assert json.loads(answer.receipt + b"}") == WHOLE | {
        "items": ["ann-000", "ann-001"],
        "scores": [1.0, 0.999],
        "digest": digest(answer.body),
        "inputs": read_by_model,
        "computed_on": "this processor",
    }
    other = WHOLE | {"items": [WHOLE["items"][0] | {"score": 0.5}]}
    assert digest(seal(other).body) != digest(answer.body)
