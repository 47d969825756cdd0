"""What a client may send, and what it hears when it may not."""

from __future__ import annotations

import json
import socket

import pytest
from fake_torchserve import FakeTorchServe
from hypothesis import given, settings
from hypothesis import strategies as st
from running import Edge, Start

from serving.edge.errors import Refusal
from serving.edge.incoming import from_query
from serving.worker import request

DEEP = {
    "an array in the body": b"[" * 100_000,
    "an object as context": b'{"context":' * 5000 + b"1" + b"}" * 5000,
    "what the parser reads and the writer does not": b'{"history":[{"item_id":"a","event_time":"2026-01-01","x":%s}]}'
    % (b"[" * 400 + b"]" * 400),
}


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (b"", "body"),
        (b'{"k": ', "body"),
        (b"\xff\xfe", "body"),
        (b"[]", "body"),
        (b"null", "body"),
        (b'{"k": 0}', "k"),
        (b'{"k": 1001}', "k"),
        (b'{"k": "ten"}', "k"),
        (b'{"k": 2.5}', "k"),
        (b'{"k": 1e400}', "body"),
        (b'{"user_id": 7}', "user_id"),
        (b'{"history": [{"item_id": 5}]}', "history[0].item_id"),
        (b'{"time": "soon"}', "time"),
        (b'{"time": "0001-01-01T00:00:00+14:00"}', "time"),
        (b'{"context": {"a": []}}', "context.a"),
        (b'{"colour": "red"}', "colour"),
        *((body, "body") for body in list(DEEP.values())[:1]),
    ],
)
def test_a_bad_body_is_a_400_that_names_its_field(
    edge: Edge, torchserve: FakeTorchServe, body: bytes, field: str
) -> None:
    got = edge.ask(body) if body else edge.send("POST", b"", None)
    assert got.status_code == 400
    assert got.headers["content-type"] == "application/json"
    assert (got.json()["code"], got.json()["field"]) == (400, field)
    assert got.json()["message"]
    assert got.headers["x-request-id"]
    assert torchserve.users_asked() == []
    assert edge.count("tidegate_edge_refusals_total", status="400") == 1


def test_a_whole_number_may_be_written_with_a_point(edge: Edge) -> None:
    for ten in (b"10.0", b"1e1"):
        assert len(edge.answer(b'{"k": %s}' % ten)["items"]) == 10


@pytest.mark.parametrize("kind", DEEP)
def test_a_deeply_nested_body_is_a_400_and_costs_nobody(edge: Edge, kind: str) -> None:
    assert edge.ask(DEEP[kind]).status_code == 400
    assert edge.answer({"user_id": "ann"})["rung"] == "personalised"


def test_a_body_that_is_too_long_is_a_413_whether_it_says_so_or_not(start: Start) -> None:
    edge = start(max_body_bytes=2000)
    long = b'{"user_id": "' + b"x" * 3000 + b'"}'
    headers = {"authorization": f"Bearer {edge.key}"}
    stated = edge.http.post("/v1/recommendations", content=long, headers=headers)
    chunked = edge.http.post("/v1/recommendations", content=iter([long[:1500], long[1500:]]), headers=headers)
    for got in (stated, chunked):
        assert got.status_code == 413
        assert (got.json()["field"], got.headers["connection"]) == ("body", "close")
    assert edge.answer({"user_id": "x" * 200})["rung"] == "personalised"


def begin(edge: Edge, length: int) -> bytes:
    """All that comes back where a client states a length and sends one byte of it."""
    host, port = edge.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=20) as client:
        head = f"POST /v1/recommendations HTTP/1.1\r\nHost: x\r\nX-API-Key: {edge.key}\r\nContent-Length: {length}\r\n\r\n{{"
        client.sendall(head.encode())
        return b"".join(iter(lambda: client.recv(4096), b""))


def test_a_length_that_is_too_long_is_refused_before_it_is_read(edge: Edge) -> None:
    assert begin(edge, 2_000_000).startswith(b"HTTP/1.1 413 ")


def test_a_body_that_does_not_come_is_a_408(start: Start) -> None:
    got = begin(start(body_seconds=0.3), 10)
    assert got.startswith(b"HTTP/1.1 408 ")
    assert b'"did not arrive within 0.3 s"' in got


def test_a_client_that_leaves_harms_nobody(edge: Edge) -> None:
    host, port = edge.url.removeprefix("http://").split(":")
    for _ in range(3):
        with socket.create_connection((host, int(port))) as client:
            head = (
                f"POST /v1/recommendations HTTP/1.1\r\nHost: x\r\nX-API-Key: {edge.key}\r\nContent-Length: 10\r\n\r\n{{"
            )
            client.sendall(head.encode())
    assert edge.answer({"user_id": "ann"})["rung"] == "personalised"


def test_get_asks_what_post_asks(edge: Edge, torchserve: FakeTorchServe) -> None:
    body = {
        "user_id": "ann lee",
        "k": 3,
        "time": "2026-01-01T00:00:00+01:00",
        "exclude": ["ann lee-000", "x&y"],
        "context": {"device": "tv"},
        "filters": {"genres": ["Drama", "Crime"], "year": ["1999"]},
        "request_id": "r",
    }
    query = (
        "user_id=ann+lee&k=3&time=2026-01-01T00:00:00%2B01:00&exclude=ann+lee-000&exclude=x%26y"
        "&context.device=tv&filters.genres=Drama&filters.year=1999&filters.genres=Crime&request_id=r"
    )
    got = edge.get(query)
    assert got.json() == edge.answer(body) | {"cache": "miss"}
    (asked,) = [asked for _, asked in torchserve.asked if asked.get("user_id")]
    assert asked == {name: value for name, value in body.items() if name != "request_id"}
    assert edge.get().json()["rung"] == "popular"


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("k=ten", "k"),
        ("k=0", "k"),
        ("k=%D9%A1", "k"),
        ("k=1&k=2", "k"),
        ("context.a=1&context.a=2", "a"),
        ("history=a", "history"),
        ("context=a", "context"),
        ("context=a&context.b=1", "context"),
        ("colour=red", "colour"),
        ("user_id=%ff", "query"),
        ("user_id", "query"),
        (f"user_id={'x' * 9000}", "query"),
    ],
)
def test_a_bad_query_is_a_400_that_names_its_field(edge: Edge, query: str, field: str) -> None:
    got = edge.get(query)
    assert (got.status_code, got.json()["field"]) == (400, field)


@settings(deadline=None)
@given(
    query=st.one_of(
        st.binary(max_size=60),
        st.from_regex(rb"((user_id|k|exclude|context|context\.a)=[ab1%]{0,3}&?)*", fullmatch=True),
    )
)
def test_whatever_the_query_it_is_a_body_or_a_refusal(query: bytes) -> None:
    try:
        request.parse(from_query(query), 0)
    except (Refusal, request.RequestError):
        return


@pytest.mark.parametrize("value", ["", "soon", "-5", "9", "1.5", "9" * 30])
def test_a_deadline_that_cannot_be_is_a_400(edge: Edge, value: str) -> None:
    got = edge.ask({}, x_deadline_ms=value)
    assert (got.status_code, got.json()["field"]) == (400, "X-Deadline-Ms")


def test_a_request_is_known_by_its_id(edge: Edge) -> None:
    stated = edge.ask({"request_id": "mine"}, x_request_id="other")
    assert stated.json()["request_id"] == stated.headers["x-request-id"] == "mine"
    by_header = edge.ask({}, x_request_id="other")
    assert by_header.json()["request_id"] == by_header.headers["x-request-id"] == "other"
    made = {edge.ask({}).json()["request_id"] for _ in range(3)}
    assert len(made) == 3
    assert {len(name) for name in made} == {32}
    odd = edge.ask({"request_id": "é\r\nSet-Cookie: a=b"})
    assert odd.json()["request_id"] == "é\r\nSet-Cookie: a=b"
    assert "set-cookie" not in odd.headers
    assert edge.ask(b"{", x_request_id="other").headers["x-request-id"] == "other"


def test_other_paths_and_methods_are_told_what_there_is(edge: Edge) -> None:
    assert edge.http.get("/v2/recommendations").status_code == 404
    assert edge.http.get("/metrics").status_code == 404  # counts have an address of their own
    for path, allowed in (("/v1/recommendations", "GET, POST"), ("/healthz", "GET"), ("/openapi.json", "GET")):
        got = edge.http.delete(path)
        assert (got.status_code, got.headers["allow"]) == (405, allowed)
        assert got.json()["code"] == 405


def test_health_and_readiness_need_no_key_and_tell_no_secret(start: Start, torchserve: FakeTorchServe) -> None:
    edge = start()
    assert edge.http.get("/healthz").json() == {"status": "alive"}
    ready = edge.http.get("/readyz")
    assert ready.status_code == 200
    assert ready.json() == {
        "status": "ready",
        "keys": True,
        "torchserve": True,
        "store": True,
        "popular_list": True,
        "static_list": True,
        "model_version": "1.0",
    }


def test_an_edge_whose_torchserve_is_down_stays_ready_and_says_so(start: Start, torchserve: FakeTorchServe) -> None:
    torchserve.stop()
    got = start(warm=False).http.get("/readyz")
    assert (got.status_code, got.json()["torchserve"]) == (200, False)
    bare = start(warm=False, artifact=None, dataset="never-exported")
    assert bare.http.get("/readyz").status_code == 503
    bare.settings.keys_path.write_text("[]")
    bare.app.service.doorkeeper._look_again = 0
    assert bare.http.get("/readyz").json()["keys"] is False


def test_rungs_are_counted_and_timed(edge: Edge, torchserve: FakeTorchServe) -> None:
    edge.answer({"user_id": "ann"})
    torchserve.stop()
    edge.answer({"user_id": "bob"})
    for rung in ("personalised", "popular"):
        assert edge.count("tidegate_edge_answer_seconds_count", rung=rung) == 1
    assert edge.count("tidegate_edge_answers_total", rung="popular", cache="none", bucket="") == 1
    assert edge.count("tidegate_edge_upstream_seconds_count", kind="unreachable") >= 1
    assert edge.count("tidegate_edge_consent_total", word="unasked") == 2


def test_the_documents_page_stands_alone(edge: Edge) -> None:
    page = edge.http.get("/docs")
    assert page.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert "POST /v1/recommendations" in page.text
    assert "<script" not in page.text
    assert "http" not in page.text.replace("<!doctype html>", "").replace("</html>", "")
    assert json.loads(edge.http.get("/openapi.json").text)["openapi"] == "3.1.0"
