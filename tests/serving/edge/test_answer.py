"""What TorchServe says is passed on only where it is an answer of ours."""

from __future__ import annotations

import json

import pytest
from fake_torchserve import recommendations

from serving.edge.answer import FIELDS, Answer, finish, from_worker, read, seal
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
    assert json.loads(answer.receipt + b"}") == WHOLE | {"items": ["ann-000", "ann-001"]}
    assert Answer.unpack(answer.pack()) == answer
