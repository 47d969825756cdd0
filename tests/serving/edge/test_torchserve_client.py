"""Whatever happens to TorchServe, a valid key gets an answer in time; and the edge heals by itself."""

from __future__ import annotations

import json
import re
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from fake_torchserve import FakeTorchServe, recommendations
from running import RESERVE_MS, Edge, Start, wait_until

from serving.edge.answer import FIELDS
from serving.edge.torchserve_client import NoAnswer, parse_worker_answer

pytestmark = pytest.mark.slow  # each test takes little, all of them many seconds

VALID = {name: value for name, value in recommendations({"user_id": "ann", "k": 2}, "1.0").items() if name in FIELDS}
FAULTS = {
    "stopped": "TorchServe",
    "hung": "TorchServe did not answer within",
    "slow": "TorchServe did not answer within",
    "failing": "TorchServe answered 503",
    "garbage": "TorchServe's answer is not a recommendation",
    "noise": "does not answer in HTTP",
    "closing": "TorchServe closed the connection",
}


def break_it(torchserve: FakeTorchServe, fault: str) -> None:
    if fault == "stopped":
        torchserve.stop()
    torchserve.mode = fault
    torchserve.delay = 60.0 if fault == "slow" else 0.0


def mend_it(torchserve: FakeTorchServe, fault: str) -> None:
    torchserve.mode, torchserve.delay = "well", 0.0
    if fault == "stopped":
        torchserve.start()


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_is_answered_by_a_fallback_and_heals_by_itself(
    edge: Edge, torchserve: FakeTorchServe, fault: str
) -> None:
    before = edge.answer({"user_id": "ann", "k": 5})
    assert (before["source"], before["cache"]) == ("personalized", "miss")
    break_it(torchserve, fault)

    mine = edge.answer({"user_id": "ann", "k": 3})  # another k: not the very answer that is kept
    assert mine["source"] == "cached"
    assert mine["items"] == before["items"][:3]
    assert FAULTS[fault] in mine["reason"]
    assert before["time"] in mine["reason"]
    other = edge.answer({"user_id": "bob", "k": 3})
    assert other["source"] == "popular"
    assert [item["item_id"] for item in other["items"]] == ["popular-000", "popular-001", "popular-002"]
    assert FAULTS[fault] in other["reason"]

    mend_it(torchserve, fault)
    wait_until(lambda: edge.answer({"user_id": "carl", "k": 2})["source"] == "personalized")


def test_no_request_waits_for_a_torchserve_that_is_known_to_hang(start: Start, torchserve: FakeTorchServe) -> None:
    edge = start(breaker_seconds=60)
    torchserve.mode = "hung"
    with ThreadPoolExecutor(8) as crowd:
        list(crowd.map(lambda n: edge.answer({"user_id": f"u{n}"}), range(8)))
    wait_until(lambda: not edge.service.trial.champion.breaker.closed)
    asked = len(torchserve.requests)
    for number in range(10):
        assert "because it kept failing" in edge.answer({"user_id": f"v{number}"})["reason"]
    assert len(torchserve.requests) == asked
    assert edge.count("tidegate_edge_breaker_opened_total", part="torchserve") >= 1


def test_a_shorter_deadline_of_the_client_holds(edge: Edge, torchserve: FakeTorchServe) -> None:
    torchserve.mode = "hung"
    answer = edge.answer({"user_id": "ann"}, x_deadline_ms="600")
    assert answer["source"] == "popular"
    waited = int(re.search(r"within (\d+) ms", answer["reason"])[1])
    assert 0 < waited <= 450  # a quarter is kept for the fallback


def test_short_deadlines_open_no_circuit_for_other_clients(edge: Edge, torchserve: FakeTorchServe) -> None:
    torchserve.delay = 0.4
    for number in range(8):
        hurried = edge.answer({"user_id": f"user-{number}"}, x_deadline_ms=str(RESERVE_MS + 50))
        assert hurried["source"] == "popular"
    assert edge.service.trial.champion.breaker.closed
    assert edge.answer({"user_id": "ann"})["source"] == "personalized"


def test_a_request_that_breaks_the_model_costs_others_nothing(edge: Edge, torchserve: FakeTorchServe) -> None:
    for _ in range(10):
        answer = edge.answer({"user_id": "who breaks the model"})
        assert (answer["source"], answer["reason"].split(";")[0]) == (
            "popular",
            "TorchServe's worker failed on this request",
        )
    assert edge.answer({"user_id": "ann"})["source"] == "personalized"


def test_a_connection_that_died_while_idle_costs_no_answer(edge: Edge, torchserve: FakeTorchServe) -> None:
    edge.answer({"user_id": "ann"})
    torchserve.stop()
    torchserve.start()
    assert edge.answer({"user_id": "bob"})["source"] == "personalized"


def test_a_connection_that_closes_under_a_request_is_replaced(start: Start, torchserve: FakeTorchServe) -> None:
    edge = start(popular_seconds=60)
    torchserve.drops = 1
    assert edge.answer({"user_id": "bob"})["source"] == "personalized"
    assert torchserve.requested_users() == ["bob", "bob"]


def test_it_heals_without_any_request(edge: Edge, torchserve: FakeTorchServe) -> None:
    torchserve.stop()
    wait_until(lambda: edge.count("tidegate_edge_upstream_seconds_count", kind="unreachable") >= 2)
    torchserve.version, torchserve.loaded = "2.0", {"2.0"}
    torchserve.start()
    wait_until(lambda: edge.service.pipeline.version == "2.0")


def test_more_requests_than_may_wait_are_answered_at_once(start: Start, torchserve: FakeTorchServe) -> None:
    edge = start(connections=1, breaker_failures=1000)
    torchserve.mode = "hung"
    barrier = threading.Barrier(12)

    def one(number: int) -> str:
        barrier.wait()
        return edge.answer({"user_id": f"u{number}"})["reason"]

    with ThreadPoolExecutor(12) as crowd:
        reasons = list(crowd.map(one, range(12)))
    assert sum("requests already wait for it" in reason for reason in reasons) >= 7


def test_a_token_that_was_renewed_is_read_again(edge: Edge, torchserve: FakeTorchServe) -> None:
    torchserve.token = "fresh"
    edge.settings.token_file.write_text('{"inference": {"key": "fresh"}}', encoding="utf-8")
    assert edge.answer({"user_id": "ann"})["source"] == "personalized"


def test_a_request_that_the_worker_refuses_is_refused(edge: Edge, torchserve: FakeTorchServe) -> None:
    got = edge.ask({"exclude": ["refuse me"]})
    assert got.status_code == 400
    assert got.json() == {"code": 400, "field": "exclude", "message": "is refused by the worker"}


def test_a_recommendation_is_read_whole() -> None:
    assert parse_worker_answer(json.dumps(VALID).encode()) == VALID


@pytest.mark.parametrize("name", FIELDS)
def test_an_answer_that_lacks_a_field_is_invalid(name: str) -> None:
    with pytest.raises(NoAnswer, match="is not a recommendation"):
        parse_worker_answer(json.dumps({field: value for field, value in VALID.items() if field != name}).encode())


@pytest.mark.parametrize(
    "change",
    [
        {"source": "gold"},
        {"reason": None},
        {"model_version": 1},
        {"items": None},
        {"items": ["a"]},
        {"items": [{"score": 1.0}]},
        {"items": [{"item_id": 7}]},
    ],
)
def test_an_answer_with_a_wrong_value_is_invalid(change: dict) -> None:
    with pytest.raises(NoAnswer, match="is not a recommendation"):
        parse_worker_answer(json.dumps(VALID | change).encode())


@pytest.mark.parametrize("body", [b"", b"[]", b"null", b"7", b"<html>", b"\xff"])
def test_an_answer_that_is_no_object_is_invalid(body: bytes) -> None:
    with pytest.raises(NoAnswer, match="is not a recommendation"):
        parse_worker_answer(body)
