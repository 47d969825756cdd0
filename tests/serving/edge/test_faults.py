"""Whatever happens to TorchServe, a valid key gets an answer in time, which says what it rests on; and it heals."""

from __future__ import annotations

import re
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import tiny_artifact
from fake_torchserve import FakeTorchServe
from running import RESERVE_MS, Edge, Start, wait_until

pytestmark = pytest.mark.slow  # each test takes little, all of them many seconds

FAULTS = {
    "stopped": "TorchServe",
    "hung": "TorchServe did not answer within",
    "slow": "TorchServe did not answer within",
    "failing": "TorchServe answered 503",
    "garbage": "what TorchServe answered is no recommendation",
    "noise": "is not HTTP",
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
def test_each_fault_is_answered_from_below_and_heals_by_itself(
    edge: Edge, torchserve: FakeTorchServe, fault: str
) -> None:
    before = edge.answer({"user_id": "ann", "k": 5})
    assert (before["rung"], before["cache"]) == ("personalised", "miss")
    break_it(torchserve, fault)

    mine = edge.answer({"user_id": "ann", "k": 3})  # another k: not the very answer that is kept
    assert mine["rung"] == "cached"
    assert mine["items"] == before["items"][:3]
    assert FAULTS[fault] in mine["reason"]
    assert before["time"] in mine["reason"]
    other = edge.answer({"user_id": "bob", "k": 3})
    assert other["rung"] == "popular"
    assert [item["item_id"] for item in other["items"]] == ["popular-000", "popular-001", "popular-002"]
    assert FAULTS[fault] in other["reason"]

    mend_it(torchserve, fault)
    wait_until(lambda: edge.answer({"user_id": "carl", "k": 2})["rung"] == "personalised")


@pytest.mark.parametrize("fault", FAULTS)
def test_without_ever_having_met_torchserve_the_static_list_answers(
    start: Start, torchserve: FakeTorchServe, fault: str
) -> None:
    break_it(torchserve, fault)
    answer = start(warm=False).answer({"user_id": "ann", "k": 4})
    assert answer["rung"] == "static"
    assert len(answer["items"]) == 4
    assert {item["item_id"] for item in answer["items"]} <= set(tiny_artifact.ITEMS)
    assert answer["dataset_version"] == "dataset-1"


def test_with_nothing_exported_yet_the_answer_is_empty_and_says_so(start: Start, torchserve: FakeTorchServe) -> None:
    torchserve.stop()
    answer = start(warm=False, artifact=None, dataset="never-exported").answer({"user_id": "ann"})
    assert (answer["rung"], answer["items"]) == ("static", [])
    assert "no model was ever exported" in answer["reason"]


def test_once_it_is_known_to_hang_nobody_waits_for_it(start: Start, torchserve: FakeTorchServe) -> None:
    edge = start(breaker_seconds=60)
    torchserve.mode = "hung"
    with ThreadPoolExecutor(8) as crowd:
        list(crowd.map(lambda n: edge.answer({"user_id": f"u{n}"}), range(8)))
    wait_until(lambda: not edge.app.service.ladder.upstream.breaker.closed)
    asked = len(torchserve.asked)
    for number in range(10):
        assert "since it kept failing" in edge.answer({"user_id": f"v{number}"})["reason"]
    assert len(torchserve.asked) == asked
    assert edge.count("tidegate_edge_breaker_opened_total", part="torchserve") >= 1


def test_what_was_seen_or_excluded_does_not_come_back_on_a_lower_rung(edge: Edge, torchserve: FakeTorchServe) -> None:
    edge.answer({"user_id": "ann", "k": 5})
    torchserve.stop()
    seen = [{"item_id": "ann-001", "event_time": "2026-01-01T00:00:00Z"}]
    answer = edge.answer({"user_id": "ann", "k": 5, "exclude": ["ann-000"], "history": seen})
    assert answer["rung"] == "cached"
    assert [item["item_id"] for item in answer["items"]] == ["ann-002", "ann-003", "ann-004"]
    gone = {"user_id": "ann", "k": 2, "exclude": [f"ann-{n:03d}" for n in range(5)] + ["popular-000"]}
    answer = edge.answer(gone)
    assert (answer["rung"], [item["item_id"] for item in answer["items"]]) == (
        "popular",
        ["popular-001", "popular-002"],
    )


def test_a_shorter_deadline_of_the_client_holds(edge: Edge, torchserve: FakeTorchServe) -> None:
    torchserve.mode = "hung"
    answer = edge.answer({"user_id": "ann"}, x_deadline_ms="600")
    assert answer["rung"] == "popular"
    waited = int(re.search(r"within (\d+) ms", answer["reason"])[1])
    assert 0 < waited <= 450  # a quarter is kept for the way down


def test_a_fault_of_the_edge_itself_is_answered_too(
    edge: Edge, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("a mistake of ours")

    monkeypatch.setattr(edge.app.service.ladder.upstream, "bucket", broken)
    answer = edge.answer({"user_id": "ann"})
    assert answer["rung"] == "static"
    assert "a mistake of ours" not in answer["reason"]
    assert "a mistake of ours" in caplog.text
    assert edge.count("tidegate_edge_errors_total") == 1


def test_the_impatient_open_no_breaker_for_the_others(edge: Edge, torchserve: FakeTorchServe) -> None:
    torchserve.delay = 0.4
    for number in range(8):
        hurried = edge.answer({"user_id": f"user-{number}"}, x_deadline_ms=str(RESERVE_MS + 50))
        assert hurried["rung"] == "popular"
    assert edge.app.service.ladder.upstream.breaker.closed
    assert edge.answer({"user_id": "ann"})["rung"] == "personalised"


def test_one_who_breaks_the_model_takes_nobody_down(edge: Edge, torchserve: FakeTorchServe) -> None:
    for _ in range(10):
        answer = edge.answer({"user_id": "who breaks the model"})
        assert (answer["rung"], answer["reason"].split(";")[0]) == (
            "popular",
            "TorchServe's worker failed on this request",
        )
    assert edge.answer({"user_id": "ann"})["rung"] == "personalised"


def test_where_no_artifact_lies_the_popular_list_is_kept_for_the_next_start(
    start: Start, torchserve: FakeTorchServe
) -> None:
    edge = start(artifact=None, dataset="tiny")
    file = edge.settings.home / "static.json"
    wait_until(file.exists)
    torchserve.stop()
    again = start(warm=False, artifact=None, dataset="tiny", home=edge.settings.home)
    answer = again.answer({"user_id": "bob", "k": 1})
    assert (answer["rung"], answer["items"][0]["item_id"]) == ("static", "popular-000")


def test_a_connection_that_died_while_idle_costs_nobody_an_answer(edge: Edge, torchserve: FakeTorchServe) -> None:
    edge.answer({"user_id": "ann"})
    torchserve.stop()
    torchserve.start()
    assert edge.answer({"user_id": "bob"})["rung"] == "personalised"


def test_a_connection_that_closes_under_a_request_is_replaced(start: Start, torchserve: FakeTorchServe) -> None:
    edge = start(popular_seconds=60)
    torchserve.drops = 1
    assert edge.answer({"user_id": "bob"})["rung"] == "personalised"
    assert torchserve.users_asked() == ["bob", "bob"]


def test_it_heals_though_nobody_asks(edge: Edge, torchserve: FakeTorchServe) -> None:
    torchserve.stop()
    wait_until(lambda: edge.count("tidegate_edge_upstream_seconds_count", kind="unreachable") >= 2)
    torchserve.version, torchserve.loaded = "2.0", {"2.0"}
    torchserve.start()
    wait_until(lambda: edge.app.service.ladder.version == "2.0")


def test_more_than_may_wait_are_answered_at_once(start: Start, torchserve: FakeTorchServe) -> None:
    edge = start(connections=1, breaker_failures=1000)
    torchserve.mode = "hung"
    barrier = threading.Barrier(12)

    def one(number: int) -> str:
        barrier.wait()
        return edge.answer({"user_id": f"u{number}"})["reason"]

    with ThreadPoolExecutor(12) as crowd:
        reasons = list(crowd.map(one, range(12)))
    assert sum("requests wait for it already" in reason for reason in reasons) >= 7


def test_a_token_that_was_renewed_is_read_again(edge: Edge, torchserve: FakeTorchServe) -> None:
    torchserve.token = "fresh"
    edge.settings.token_file.write_text('{"inference": {"key": "fresh"}}')
    assert edge.answer({"user_id": "ann"})["rung"] == "personalised"


def test_a_worker_that_finds_fault_with_a_request_is_heard(edge: Edge, torchserve: FakeTorchServe) -> None:
    got = edge.ask({"exclude": ["refuse me"]})
    assert got.status_code == 400
    assert got.json() == {"code": 400, "field": "exclude", "message": "is refused by the worker"}
