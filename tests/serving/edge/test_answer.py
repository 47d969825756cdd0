"""Answers as bytes that are joined."""

from __future__ import annotations

import json

import pytest
from fake_torchserve import recommendations

from serving.edge.answer import FIELDS, Answer, build_answer, client_body, digest, first_items, parse_answer

FIELDS_OF_ANN = {
    name: value for name, value in recommendations({"user_id": "ann", "k": 2}, "1.0").items() if name in FIELDS
}


def test_joined_bytes_are_the_same_json() -> None:
    answer = build_answer(FIELDS_OF_ANN)
    assert parse_answer(answer) == FIELDS_OF_ANN
    assert json.loads(client_body(answer, {"request_id": "é"})) == FIELDS_OF_ANN | {"request_id": "é"}


def test_an_answer_comes_back_from_bytes_as_it_was() -> None:
    answer = Answer("personalized", "1.0", b'{"items":["\xc3\xa9"]', b'{"items":[]')
    assert Answer.unpack(answer.pack()) == answer
    with pytest.raises(ValueError, match="unpack"):
        Answer.unpack(b"another program's")


def test_the_log_entry_holds_what_a_replay_compares_with_and_what_the_worker_sent_for_it() -> None:
    inputs = {"history": "h", "traits": "t", "trends": "r"}
    answer = build_answer(FIELDS_OF_ANN | {"inputs": inputs, "computed_on": "this processor"})
    assert answer.body == build_answer(FIELDS_OF_ANN).body
    assert json.loads(answer.log_entry + b"}") == FIELDS_OF_ANN | {
        "items": ["ann-000", "ann-001"],
        "scores": [1.0, 0.999],
        "digest": digest(answer.body),
        "inputs": inputs,
        "computed_on": "this processor",
    }
    other = FIELDS_OF_ANN | {"items": [FIELDS_OF_ANN["items"][0] | {"score": 0.5}]}
    assert digest(build_answer(other).body) != digest(answer.body)


def test_excluded_items_do_not_count_among_the_first() -> None:
    items = [{"item_id": name} for name in "abcd"]
    assert first_items(items, {"b"}, 2) == [{"item_id": "a"}, {"item_id": "c"}]
    assert first_items(items, (), 2) == [{"item_id": "a"}, {"item_id": "b"}]
