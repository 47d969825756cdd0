"""What clients may send, and what they read when they may not; requests meant to do harm harm nobody."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator

import pytest
from fake_torchserve import FakeTorchServe
from hypothesis import given, settings
from hypothesis import strategies as st
from running import Edge, Start

from serving.edge.request_parsing import parse_query
from serving.worker import request
from serving.worker.request import MAX_FILTER_VALUES, MAX_HISTORY
from web.errors import ApiError

EVENT = b'{"item_id":"a","event_time":"2026-01-01T00:00:00Z"}'

BODIES = {  # what: (body, the field that the error names)
    "an empty body": (b"", "body"),
    "half an object": (b'{"k": ', "body"),
    "a list": (b"[]", "body"),
    "null": (b"null", "body"),
    "an array, 100,000 levels deep": (b"[" * 100_000 + b"]" * 100_000, "body"),
    "an object, 50,000 levels deep": (b'{"context":' * 50_000 + b"1" + b"}" * 50_000, "body"),
    "a deep value": (b'{"context":{"a":' + b"[" * 500 + b"]" * 500 + b"}}", "context.a"),
    "two bodies": (b"{}{}", "body"),
    "NaN": (b'{"k":NaN}', "body"),
    "infinity": (b'{"context":{"a":-Infinity}}', "body"),
    "a number beyond a float": (b'{"context":{"a":1e400}}', "context.a"),
    "a number of 5,000 digits": (b'{"k":' + b"9" * 5000 + b"}", "body"),
    "a number beyond 64 bits": (b'{"context":{"a":-9223372036854775809}}', "context.a"),
    "bytes that are not UTF-8": (b'{"user_id":"\xc3\x28"}', "body"),
    "UTF-16": ('{"k":1}'.encode("utf-16"), "body"),
    "a byte order mark": (b"\xef\xbb\xbf{}", "body"),
    "a NUL byte": (b'{"user_id":"a\0b"}', "body"),
    "half a surrogate pair": (b'{"user_id":"\\ud800"}', "user_id"),
    "one name twice": (b'{"user_id":"ann","user_id":"bob"}', "user_id"),
    "one name twice, spelled differently": (b'{"k":1,"\\u006b":2}', "k"),
    "one name twice, below": (b'{"context":{"device":"tv","device":"phone"}}', "device"),
    "half a surrogate pair, twice": (b'{"\\ud800":1,"\\ud800":2}', "\ud800"),
    "a name of 100,000 characters": (b'{"' + b"n" * 100_000 + b'":1}', "n" * 100),
    "an unknown field": (b'{"color": "red"}', "color"),
    "a history too long": (b'{"history":[' + b",".join([EVENT] * (MAX_HISTORY + 1)) + b"]}", "history"),
    "a filter too long": (json.dumps({"filters": {"a": ["b"] * (MAX_FILTER_VALUES + 1)}}).encode(), "filters.a"),
    "a moment that UTC cannot hold": (b'{"time": "0001-01-01T00:00:00+14:00"}', "time"),
}

WRONG_VALUES = {  # field: values that it does not accept
    "user_id": [1, 1.5, True, [], {}, "x" * 257],
    "history": ["a", 1, True, {}],
    "k": ["1", None, True, [], {}, 1.5, 0, -1, 1001, 1e300],
    "time": [1, True, [], {}, "", "yesterday"],
    "context": ["a", 1, True, []],
    "exclude": ["a", 1, True, {}],
    "filters": ["a", 1, True, []],
    "request_id": [1, True, [], {}, "x" * 257],
}
WRONG_PARTS = {
    "history[0]": {"history": [1]},
    "history[0].item_id": {"history": [{"item_id": None, "event_time": "2026-01-01"}]},
    "history[0].event_time": {"history": [{"item_id": "a", "event_time": 1767225600}]},
    "context.a": {"context": {"a": {}}},
    "exclude[1]": {"exclude": ["a", None]},
    "filters.a": {"filters": {"a": []}},
    "filters.a[0]": {"filters": {"a": [1]}},
}

START = "POST /v1/recommendations HTTP/1.1\r\nHost: x\r\nX-API-Key: {key}\r\n"
MALFORMED = {  # a proxy in front may read these otherwise than the edge
    "two lengths": START + "Content-Length: 2\r\nContent-Length: 5\r\n\r\n{{}}GET",
    "a length and chunks": START + "Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunks that are not the last coding": START + "Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    "an unknown coding": START + "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "a chunk of no size": START + "Transfer-Encoding: chunked\r\n\r\nZZ\r\n{{}}\r\n0\r\n\r\n",
    "a chunk of negative size": START + "Transfer-Encoding: chunked\r\n\r\n-2\r\n{{}}\r\n0\r\n\r\n",
    "a chunk beyond 64 bits": START + "Transfer-Encoding: chunked\r\n\r\n1ffffffffffffffff\r\n",
    "a negative length": START + "Content-Length: -2\r\n\r\n{{}}",
    "a length beyond 64 bits": START + "Content-Length: 99999999999999999999\r\n\r\n{{}}",
    "a name with a space": START + "Content-Length : 2\r\n\r\n{{}}",
    "a folded line": START + "X-Folded: a\r\n b\r\nContent-Length: 2\r\n\r\n{{}}",
    "bare line feeds": START.replace("\r", "") + "Content-Length: 2\n\n{{}}",
    "NUL in a header": START + "X-Nul: a\0b\r\nContent-Length: 2\r\n\r\n{{}}",
    "no HTTP": "\x16\x03\x01\x02\x00\x01\x00\r\n\r\n",
    "HTTP/2": "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
}


def send_raw(edge: Edge, *parts: str, pause: float = 0.0) -> tuple[int, bytes]:
    """Send bytes as they are; the status and the body that come back before the edge closes the connection."""
    host, port = edge.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=20) as client:
        try:
            for part in parts:
                client.sendall(part.encode("latin-1"))
                time.sleep(pause)
        except OSError:
            pass  # refused before all of it was sent
        head, _, body = b"".join(read_until_closed(client)).partition(b"\r\n\r\n")
    assert b"\r\nconnection: close" in head.lower()
    return int(head.split(b" ")[1]), body


def read_until_closed(client: socket.socket) -> Iterator[bytes]:
    try:
        while part := client.recv(65_536):
            yield part
    except ConnectionResetError:  # closed before it had read all that was sent
        return


@pytest.fixture
def untouched(edge: Edge, torchserve: FakeTorchServe) -> Iterator[Edge]:
    """An edge that must have passed nothing on at the end, and must still answer."""
    yield edge
    assert torchserve.requested_users() == []
    assert edge.answer({"user_id": "ann"})["source"] == "personalized"


@pytest.mark.parametrize("what", BODIES)
def test_a_bad_body_is_a_400_that_names_its_field(untouched: Edge, what: str) -> None:
    body, field = BODIES[what]
    got = untouched.send("POST", body, None)
    assert (got.status_code, got.json()["code"], got.json()["field"]) == (400, 400, field)
    assert got.json()["message"]
    assert got.headers["content-type"] == "application/json"
    assert got.headers["x-request-id"]
    assert len(got.content) < 1000
    reasons = ("malformed", "many_values")
    assert sum(untouched.count("tidegate_edge_refusals_total", status="400", reason=reason) for reason in reasons) == 1


def test_every_field_refuses_every_value_that_it_does_not_accept(untouched: Edge) -> None:
    assert set(WRONG_VALUES) == set(request.RecommendationRequest.model_fields)
    cases = [(field, {field: value}) for field, values in WRONG_VALUES.items() for value in values]
    for field, body in [*cases, *WRONG_PARTS.items()]:
        got = untouched.ask(body)
        assert (got.status_code, got.json()["field"]) == (400, field), body


def test_the_error_of_an_event_names_the_unknown_and_the_missing_field(untouched: Edge) -> None:
    error = untouched.ask({"history": [{"item": "m1"}]}).json()
    assert error["field"] == "history[0].item_id"
    assert error["message"].startswith("is required; unknown field item; ")


def test_further_fields_of_an_event_are_not_passed_on(edge: Edge) -> None:
    for value in (b"1" + b"0" * 30, b"[" * 500 + b"]" * 500, b'"note"'):
        body = b'{"history":[{"item_id":"a","event_time":"2026-01-01","extra":%s}]}' % value
        assert edge.answer(body)["items"]


def test_a_whole_number_may_be_written_with_a_point(edge: Edge) -> None:
    for ten in (b"10.0", b"1e1"):
        assert len(edge.answer(b'{"k": %s}' % ten)["items"]) == 10


@pytest.mark.parametrize("what", MALFORMED)
def test_a_request_that_can_be_read_in_two_ways_is_refused_and_the_connection_closed(
    untouched: Edge, what: str
) -> None:
    status, _ = send_raw(untouched, MALFORMED[what].format(key=untouched.key))
    assert status == 400


def test_a_body_that_is_too_long_is_a_413_whether_its_length_is_declared_or_not(start: Start) -> None:
    edge = start(max_body_bytes=2000)
    long = b'{"user_id": "' + b"x" * 3000 + b'"}'
    headers = {"authorization": f"Bearer {edge.key}"}
    declared = edge.http.post("/v1/recommendations", content=long, headers=headers)
    chunked = edge.http.post("/v1/recommendations", content=iter([long[:1500], long[1500:]]), headers=headers)
    for got in (declared, chunked):
        assert got.status_code == 413
        assert (got.json()["field"], got.headers["connection"]) == ("body", "close")
    assert edge.answer({"user_id": "x" * 200})["source"] == "personalized"


def test_a_length_that_is_too_long_is_refused_before_the_body_is_read(edge: Edge) -> None:
    status, body = send_raw(edge, START.format(key=edge.key) + "Content-Length: 2000000\r\n\r\n{")
    assert (status, json.loads(body)["field"]) == (413, "body")


def test_a_body_that_trickles_is_a_408_however_often_a_byte_comes(start: Start) -> None:
    edge = start(body_seconds=0.5)
    head = START.format(key=edge.key) + "Content-Length: 1000\r\n\r\n"
    status, body = send_raw(edge, head, *("{" + " " * 500), pause=0.02)
    assert (status, json.loads(body)["field"]) == (408, "body")
    assert json.loads(body)["message"] == "did not arrive within 0.5 s"
    assert edge.answer({"user_id": "ann"})["source"] == "personalized"


def test_a_client_that_leaves_harms_nobody(edge: Edge, caplog: pytest.LogCaptureFixture) -> None:
    host, port = edge.url.removeprefix("http://").split(":")
    for _ in range(3):
        with socket.create_connection((host, int(port))) as client:
            client.sendall((START + "Content-Length: 10\r\n\r\n{{").format(key=edge.key).encode())
    assert edge.answer({"user_id": "ann"})["source"] == "personalized"
    assert "Traceback" not in caplog.text


def test_two_requests_in_one_read_get_their_own_answers(edge: Edge) -> None:
    head = (START + "Content-Length: 7\r\n\r\n").format(key=edge.key)
    host, port = edge.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=20) as client:
        last = "GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        client.sendall(f'{head}{{"k":3}}{head}{{"k":0}}{last}'.encode())
        got = b"".join(read_until_closed(client))
    assert [part[:3] for part in got.split(b"HTTP/1.1 ")[1:]] == [b"200", b"400", b"200"]


@pytest.mark.parametrize("offer", ["websocket", "h2c"])
def test_an_offer_of_another_protocol_is_ignored(edge: Edge, offer: str) -> None:
    for _ in range(2):  # on one connection
        assert len(edge.get("k=1", connection="Upgrade", upgrade=offer).json()["items"]) == 1


@pytest.mark.parametrize("path", ["POST /v1/recommendations", "GET /livez"])
@pytest.mark.parametrize("offer", ["websocket", "h2c"])
def test_no_second_request_hides_behind_an_offer_of_another_protocol(untouched: Edge, path: str, offer: str) -> None:
    hidden = (START + "Content-Length: 17\r\n\r\n").format(key=untouched.key) + '{"user_id":"bob"}'
    head = f"{path} HTTP/1.1\r\nHost: x\r\nX-API-Key: {untouched.key}\r\n"
    head += f"Connection: Upgrade\r\nUpgrade: {offer}\r\nContent-Length: {len(hidden)}\r\n\r\n"
    for parts in ([head + hidden], [head, hidden]):
        status, body = send_raw(untouched, *parts, pause=0.1)
        assert (status, json.loads(body)["field"]) == (400, "upgrade")


@pytest.mark.parametrize("header", ["Authorization: Bearer ", "X-API-Key: "])
def test_two_keys_in_one_request_are_refused(edge: Edge, header: str) -> None:
    name = header.split(":")[0].lower()
    for first, second in ((edge.key, "x"), ("x", edge.key)):
        got = edge.http.get(
            "/v1/recommendations", headers=[(name, header.split(": ")[1] + key) for key in (first, second)]
        )
        assert (got.status_code, got.json()["field"], got.json()["message"]) == (400, name, "is sent twice")


def test_get_takes_what_post_takes(edge: Edge, torchserve: FakeTorchServe) -> None:
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
    (sent,) = [sent for _, sent in torchserve.requests if sent.get("user_id")]
    assert sent == {name: value for name, value in body.items() if name != "request_id"}
    assert edge.get().json()["source"] == "popular"


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
        ("color=red", "color"),
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
def test_every_query_is_a_body_or_an_error(query: bytes) -> None:
    try:
        request.parse(parse_query(query), 0)
    except (ApiError, request.RequestError):
        return


@pytest.mark.parametrize("value", ["", "soon", "-5", "9", "1.5", "9" * 30])
def test_an_invalid_deadline_is_a_400(edge: Edge, value: str) -> None:
    got = edge.ask({}, x_deadline_ms=value)
    assert (got.status_code, got.json()["field"]) == (400, "X-Deadline-Ms")


def test_a_request_is_known_by_its_id(edge: Edge) -> None:
    own = edge.ask({"request_id": "mine"}, x_request_id="other")
    assert own.json()["request_id"] == own.headers["x-request-id"] == "mine"
    by_header = edge.ask({}, x_request_id="other")
    assert by_header.json()["request_id"] == by_header.headers["x-request-id"] == "other"
    new = {edge.ask({}).json()["request_id"] for _ in range(3)}
    assert len(new) == 3
    assert {len(request_id) for request_id in new} == {32}
    odd = edge.ask({"request_id": "é\r\nSet-Cookie: a=b"})
    assert odd.json()["request_id"] == "é\r\nSet-Cookie: a=b"
    assert "set-cookie" not in odd.headers
    assert edge.ask(b"{", x_request_id="other").headers["x-request-id"] == "other"
