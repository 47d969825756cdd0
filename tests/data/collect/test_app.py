"""The collector's HTTP API: Segment's wire format, a verdict per event, and what is acknowledged is in the log."""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Callable
from typing import Any

import pytest
from collector_app import RunningCollector

from data.collect.messages import MAX_EVENT_BYTES
from data.collect.request import MAX_BATCH_BYTES, MAX_BODY_BYTES, MAX_MESSAGES
from data.collect.schema import PURPOSES, Identify, View, json_schema

Start = Callable[..., RunningCollector]


def view(message_id: str, item: Any = "film", **fields: Any) -> dict[str, Any]:
    properties = {"item_id": item}
    return {
        "type": "track", "messageId": message_id, "userId": "ann", "event": "view", "properties": properties, **fields,
    }  # fmt: skip


def test_each_event_gets_a_verdict_and_what_is_accepted_is_in_the_log(collector: RunningCollector) -> None:
    results = collector.send(view("a"), view("b", item=None), view("c"))
    assert results["a"] == {"status": "accepted", "purposes": list(PURPOSES), "position": "0:1"}
    assert results["b"] == {"status": "rejected", "reason": "schema", "field": "item_id", "message": "is missing"}
    assert results["c"]["position"] == "0:2"
    assert [event.event_id for event in collector.events()] == ["a", "c"]
    assert [message.source for message in collector.logged()] == ["web", "web"]


def test_an_event_that_is_sent_again_is_stored_once_also_after_a_restart(start: Start, tmp_path) -> None:
    first = start(home=tmp_path / "same")
    assert first.send(view("a"))["a"]["status"] == "accepted"
    assert first.send(view("a"), view("b"))["a"] == {
        "status": "duplicate", "purposes": list(PURPOSES), "position": "0:1",
    }  # fmt: skip
    first.close()
    second = start(home=tmp_path / "same")
    assert second.send(view("a"))["a"]["status"] == "duplicate"
    assert [event.event_id for event in second.events()] == ["a", "b"]


def test_another_event_with_a_known_id_is_rejected(collector: RunningCollector) -> None:
    collector.send(view("a"))
    verdict = collector.send(view("a", item="other"))["a"]
    assert (verdict["status"], verdict["reason"], verdict["field"]) == ("rejected", "conflict", "messageId")
    assert len(collector.events()) == 1


def test_rejected_events_are_kept_as_they_came(collector: RunningCollector) -> None:
    collector.send(view("b", item=None))
    (kept,) = collector.app.state.service.rejected.search()
    assert (kept.reason, kept.field, kept.source, kept.message_id) == ("schema", "item_id", "web", "b")
    assert json.loads(kept.body) == view("b", item=None)


@pytest.mark.parametrize(
    ("path", "body", "stored"),
    [
        ("/v1/track", {"userId": "u", "event": "view", "properties": {"item_id": "i"}}, "view"),
        ("/v1/t", {"userId": "u", "event": "view", "properties": {"item_id": "i"}}, "view"),
        ("/v1/identify", {"userId": "u", "traits": {"plan": "free"}}, "identify"),
        ("/v1/page", {"userId": "u", "name": "Home"}, "page"),
        ("/v1/screen", {"anonymousId": "u", "name": "Home"}, "page"),
        ("/v1/group", {"userId": "u", "groupId": "g"}, "group"),
        ("/v1/alias", {"userId": "u", "previousId": "v"}, "alias"),
    ],
)
def test_each_call_of_segments_api_stores_its_event(
    collector: RunningCollector, path: str, body: dict, stored: str
) -> None:
    response = collector.post(path, body)
    assert response.status_code == 200
    (verdict,) = response.json()["results"].values()
    assert verdict["status"] == "accepted"
    (event,) = collector.events()
    assert type(event).__struct_config__.tag == stored


def test_the_key_may_come_by_basic_bearer_or_body(collector: RunningCollector) -> None:
    body = {"batch": [view("a")]}
    basic = base64.b64encode(f"{collector.key}:".encode()).decode()
    for headers in ({"Authorization": f"Basic {basic}"}, {"Authorization": f"Bearer {collector.key}"}):
        assert collector.client.post("/v1/batch", json=body, headers=headers).status_code == 200
    assert collector.client.post("/v1/b", json=body | {"writeKey": collector.key}).status_code == 200
    for headers in ({}, {"Authorization": "Basic !"}, {"Authorization": "Bearer wrong"}):
        response = collector.client.post("/v1/batch", json=body, headers=headers)
        assert (response.status_code, response.json()["field"]) == (401, "authorization")


def test_json_is_read_whatever_its_content_type_and_from_gzip(collector: RunningCollector) -> None:
    content = json.dumps({"batch": [view("a")], "writeKey": collector.key}).encode()
    plain = collector.client.post("/v1/b", content=content, headers={"Content-Type": "text/plain"})
    assert plain.json()["results"]["a"]["status"] == "accepted"
    packed = collector.post("/v1/batch", content=gzip.compress(content), headers={"Content-Encoding": "gzip"})
    assert packed.json()["results"]["a"]["status"] == "duplicate"


@pytest.mark.parametrize(
    ("content", "headers", "status", "field"),
    [
        (b"{", {}, 400, "body"),
        (b"[" * 100_000, {}, 400, "body"),
        (b"[]", {}, 400, "body"),
        (b'{"batch": 3}', {}, 400, "batch"),
        (b"{}", {}, 400, "batch"),
        (b'{"batch": [' + b"1," * MAX_MESSAGES + b"1]}", {}, 400, "batch"),
        (b"\xff\xfe", {}, 400, "body"),
        (b" " * (MAX_BATCH_BYTES + 1), {}, 400, "body"),
        (b" " * (MAX_BODY_BYTES + 1), {}, 413, "body"),
        (b"no gzip", {"Content-Encoding": "gzip"}, 400, "body"),
        (gzip.compress(b'{"batch": []}', mtime=0)[:-9], {"Content-Encoding": "gzip"}, 400, "body"),
        (gzip.compress(b" " * 50_000_000, mtime=0), {"Content-Encoding": "gzip"}, 400, "body"),
        (b"{}", {"Content-Encoding": "br"}, 400, "content-encoding"),
    ],
)
def test_a_request_that_cannot_be_read_is_refused_with_the_field(
    collector: RunningCollector, content: bytes, headers: dict, status: int, field: str
) -> None:
    response = collector.post("/v1/batch", content=content, headers=headers)
    assert (response.status_code, response.json()["field"]) == (status, field)


def test_an_event_that_is_too_large_costs_its_batch_nothing(collector: RunningCollector) -> None:
    results = collector.send(view("big", padding="x" * MAX_EVENT_BYTES), view("a"))
    assert (results["big"]["status"], results["big"]["reason"]) == ("rejected", "size")
    assert results["a"]["status"] == "accepted"


def test_messages_without_an_id_are_named_by_their_place(collector: RunningCollector) -> None:
    results = collector.post("/v1/batch", content=b'{"batch": [5, {"type": "track"}]}').json()["results"]
    assert results["[0]"]["status"] == "rejected"
    assert len(results) == 2


def test_a_key_that_sends_too_much_is_told_when_to_go_on(start: Start) -> None:
    collector = start(events_per_second=1)
    batch = {"batch": [view(f"a{number}") for number in range(MAX_MESSAGES)]}
    assert collector.post("/v1/batch", batch).status_code == 200
    response = collector.post("/v1/batch", {"batch": [view("b")]})
    assert (response.status_code, response.headers["retry-after"]) == (429, "1")
    assert response.json()["results"] == {"b": {"status": "limited", "message": "the write key sends too much"}}
    other = collector.make_key("app", events_per_second=1000.0)
    collector.app.state.service.authenticator.reload(force=True)
    assert collector.post("/v1/batch", {"batch": [view("c")]}, key=other).status_code == 200


def test_what_could_not_be_stored_is_to_be_sent_again_and_the_collector_goes_on(
    collector: RunningCollector, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = collector.app.state.service.log
    collector.send(view("a"))
    with monkeypatch.context() as patch:
        patch.setattr(log, "_day_file", lambda day: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        response = collector.post("/v1/batch", {"batch": [view("a"), view("b"), view("c", item=None)]})
        assert (response.status_code, response.headers["retry-after"]) == (503, "1")
        results = response.json()["results"]
        assert [results[name]["status"] for name in "abc"] == ["retry", "retry", "rejected"]
        assert collector.client.get("/readyz").json()["status"] == "degraded"
    results = collector.send(view("a"), view("b"))
    assert [results[name]["status"] for name in "ab"] == ["duplicate", "accepted"]
    assert collector.client.get("/readyz").json() == {"status": "ready", "log": True, "keys": True, "end": "0:2"}


def test_validate_returns_verdicts_and_stores_nothing(collector: RunningCollector) -> None:
    response = collector.post("/v1/validate", {"batch": [view("a"), view("b", item=None)]})
    assert {name: verdict["status"] for name, verdict in response.json()["results"].items()} == {
        "a": "accepted", "b": "rejected",
    }  # fmt: skip
    single = collector.post("/v1/validate", view("c"))
    assert single.json()["results"]["c"]["status"] == "accepted"
    assert collector.events() == []
    assert list(collector.app.state.service.rejected.search()) == []


def test_a_browsers_key_works_on_its_own_pages_only(collector: RunningCollector) -> None:
    key = collector.make_key("shop", origins=("https://shop.example",))
    collector.app.state.service.authenticator.reload(force=True)
    body = {"batch": [view("a")]}
    for origin, status in (("https://shop.example", 200), ("https://other.example", 403), (None, 403)):
        headers = {} if origin is None else {"Origin": origin}
        assert collector.post("/v1/batch", body, key=key, headers=headers).status_code == status


def test_browsers_may_send_from_any_page(collector: RunningCollector) -> None:
    headers = {
        "Origin": "https://shop.example",
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization,content-type",
    }
    preflight = collector.client.options("/v1/batch", headers=headers)
    assert preflight.status_code == 200
    assert preflight.headers["access-control-allow-origin"] == "*"
    response = collector.post("/v1/batch", {"batch": []}, headers={"Origin": "https://shop.example"})
    assert response.headers["access-control-allow-origin"] == "*"


def test_the_schema_names_the_privacy_class_and_the_purposes_of_each_field(collector: RunningCollector) -> None:
    published = collector.client.get("/v1/schema").json()
    assert published == json.loads(json.dumps(json_schema()))
    query = published["$defs"]["Search"]["properties"]["query"]
    assert (query["x-privacy"], query["x-retention-days"], query["x-purposes"]) == ("behavior", 90, list(PURPOSES))


def test_traits_and_ids_arrive_as_they_were_sent(collector: RunningCollector) -> None:
    traits = {"näme": "𝄞\u2028", "age": 2**53 + 1, "big": 10**30, "ratio": 0.1, "paid": False, "none": None}
    message = {"type": "identify", "messageId": "i", "userId": 7, "anonymousId": "device", "traits": traits}
    assert collector.send(message, view("v"))["i"]["status"] == "accepted"
    identify, viewed = collector.events()
    assert isinstance(identify, Identify)
    assert isinstance(viewed, View)
    assert (identify.user_id, identify.anonymous_id) == ("7", "device")
    assert identify.traits == traits


def test_analytics_next_finds_the_collector_by_its_settings(collector: RunningCollector) -> None:
    found = collector.client.get(f"/v1/projects/{collector.key}/settings").json()
    assert found["integrations"]["Segment.io"]["apiHost"] == f"{collector.url.removeprefix('http://')}/v1"
    assert collector.client.get("/v1/projects/wrong/settings").status_code == 401


def test_the_tracker_is_served_and_what_its_queue_lost_is_counted(collector: RunningCollector) -> None:
    response = collector.client.get("/tracker.js")
    assert response.headers["content-type"].startswith("text/javascript")
    assert "tidegate" in response.text
    for dropped in (3, "many", -1, None):
        assert collector.post("/v1/b", {"batch": [], "dropped": dropped}).status_code == 200
    registry = collector.app.state.service.metrics.registry
    assert registry.get_sample_value("tidegate_collect_dropped_by_senders_total", {"source": "web"}) == 3


@pytest.mark.parametrize(("method", "path", "status"), [("GET", "/v1/batch", 405), ("POST", "/v1/nothing", 404)])
def test_unknown_paths_and_methods_are_refused(
    collector: RunningCollector, method: str, path: str, status: int
) -> None:
    response = collector.client.request(method, path)
    assert response.status_code == response.json()["code"] == status
