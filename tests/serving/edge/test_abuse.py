"""Requests meant to do harm: each is refused in our own form, names what is wrong, and the next good one is answered."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator

import pytest
from fake_torchserve import FakeTorchServe
from running import Edge, Start

from serving.edge import protocol
from serving.worker import request

EVENT = b'{"item_id":"a","event_time":"2026-01-01T00:00:00Z"}'

BODIES = {  # what: (body, field)
    "an array, 100,000 levels deep": (b"[" * 100_000 + b"]" * 100_000, "body"),
    "an object, 50,000 levels deep": (b'{"context":' * 50_000 + b"1" + b"}" * 50_000, "body"),
    "a field that is deep": (b'{"context":{"a":' + b"[" * 1000 + b"]" * 1000 + b"}}", "body"),
    "two bodies": (b"{}{}", "body"),
    "NaN": (b'{"k":NaN}', "body"),
    "infinity": (b'{"context":{"a":-Infinity}}', "body"),
    "a number of 5,000 digits": (b'{"k":' + b"9" * 5000 + b"}", "body"),
    "a number below 64 bits": (b'{"k":-9223372036854775809}', "k"),
    "bytes that are no UTF-8": (b'{"user_id":"\xc3\x28"}', "body"),
    "UTF-16": ('{"k":1}'.encode("utf-16"), "body"),
    "a byte order mark": (b"\xef\xbb\xbf{}", "body"),
    "a NUL byte": (b'{"user_id":"a\0b"}', "body"),
    "half a surrogate pair": (b'{"user_id":"\\ud800"}', "body"),
    "one name twice": (b'{"user_id":"ann","user_id":"bob"}', "user_id"),
    "one name twice, spelt differently": (b'{"k":1,"\\u006b":2}', "k"),
    "one name twice, below": (b'{"context":{"device":"tv","device":"phone"}}', "device"),
    "a name of 100,000 characters": (b'{"' + b"n" * 100_000 + b'":1}', "n" * 100),
    "a history too long": (b'{"history":[' + b",".join([EVENT] * (request.MAX_HISTORY + 1)) + b"]}", "history"),
    "a filter too long": (json.dumps({"filters": {"a": ["b"] * (request.MAX_VALUES + 1)}}).encode(), "filters.a"),
}

WRONG = {  # field: values of types that it does not take
    "user_id": [1, 1.5, True, [], {}],
    "history": ["a", 1, True, {}],
    "k": ["1", None, True, [], {}, 1.5, 0, -1, 1e300],
    "time": [1, True, [], {}, "", "yesterday"],
    "context": ["a", 1, True, []],
    "exclude": ["a", 1, True, {}, [1], [None], [[]]],
    "filters": ["a", 1, True, []],
    "request_id": [1, True, [], {}],
}
WRONG_BELOW = {
    "history[0]": {"history": [1]},
    "history[0].item_id": {"history": [{"item_id": None, "event_time": "2026-01-01"}]},
    "history[0].event_time": {"history": [{"item_id": "a", "event_time": 1767225600}]},
    "context.a": {"context": {"a": {}}},
    "filters.a": {"filters": {"a": [1]}},
}

START = "POST /v1/recommendations HTTP/1.1\r\nHost: x\r\nX-API-Key: {key}\r\n"
MALFORMED = {  # what a proxy in front may read otherwise than we do
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
ENDLESS = {
    "a path": ("GET /", "a" * 200_000),
    "a query": ("GET /v1/recommendations?user_id=", "a" * 200_000),
    "one header": (START + "X-Long: ", "a" * 200_000),
    "many headers": (START, "".join(f"X-{number}: a\r\n" for number in range(20_000))),
    "one header in one read": (START + "X-Long: ", "a" * protocol.MOST_HEAD_BYTES + "\r\n\r\n"),
}


def spell(edge: Edge, *parts: str, pause: float = 0.0) -> tuple[int, dict]:
    """Send bytes as they are; the status and the error that come back before the connection is closed."""
    host, port = edge.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=20) as client:
        try:
            for part in parts:
                client.sendall(part.encode("latin-1"))
                time.sleep(pause)
        except OSError:
            pass  # refused before all of it was sent
        head, _, body = b"".join(until_closed(client)).partition(b"\r\n\r\n")
    assert b"\r\nconnection: close" in head.lower()
    assert b"\r\ncontent-type: application/json" in head.lower()
    return int(head.split(b" ")[1]), json.loads(body)


def until_closed(client: socket.socket) -> Iterator[bytes]:
    try:
        while part := client.recv(65_536):
            yield part
    except ConnectionResetError:  # it was closed before it had read all of ours
        return


@pytest.fixture
def sound(edge: Edge, torchserve: FakeTorchServe) -> Iterator[Edge]:
    """An edge that must answer at the end, and must have passed on nothing before."""
    yield edge
    assert torchserve.users_asked() == []
    assert edge.answer({"user_id": "ann"})["rung"] == "personalised"


@pytest.mark.parametrize("what", BODIES)
def test_a_hostile_body_is_a_400_that_names_its_field(sound: Edge, what: str) -> None:
    body, field = BODIES[what]
    got = sound.ask(body)
    assert (got.status_code, got.json()["code"], got.json()["field"]) == (400, 400, field)
    assert got.json()["message"]
    assert len(got.content) < 1000


def test_every_field_refuses_every_type_that_is_not_its_own(sound: Edge) -> None:
    assert set(WRONG) == set(request.FIELDS)
    stated = [(field, {field: value}) for field, values in WRONG.items() for value in values]
    for field, body in [*stated, *WRONG_BELOW.items()]:
        got = sound.ask(body)
        named = got.json()["field"]
        assert (got.status_code, named.removesuffix("[0]")) == (400, field.removesuffix("[0]")), body
        assert "expected" in got.json()["message"] or "is not an ISO 8601 time" in got.json()["message"]


@pytest.mark.parametrize("what", MALFORMED)
def test_what_could_be_read_in_two_ways_is_refused_and_the_connection_closed(sound: Edge, what: str) -> None:
    before = sound.count("tidegate_edge_refusals_total", status="400")
    status, error = spell(sound, MALFORMED[what].format(key=sound.key))
    assert (status, error["code"], error["field"]) == (400, 400, "request")
    assert sound.count("tidegate_edge_refusals_total", status="400") == before + 1


@pytest.mark.parametrize("what", ENDLESS)
def test_a_head_that_does_not_end_is_a_431_whatever_it_is_made_of(sound: Edge, what: str) -> None:
    begin, more = ENDLESS[what]
    status, error = spell(sound, begin.format(key=sound.key), *[more] * 5)
    assert (status, error["field"]) == (431, "headers")
    assert str(protocol.MOST_HEAD_BYTES) in error["message"]


def test_a_head_that_is_long_but_not_too_long_is_read(edge: Edge) -> None:
    got = edge.ask({}, x_long="a" * (protocol.MOST_HEAD_BYTES - 1000))
    assert got.status_code == 200


def test_a_head_that_trickles_is_a_408_however_often_a_byte_comes(sound: Edge, monkeypatch) -> None:
    monkeypatch.setattr(protocol, "HEAD_SECONDS", 0.5)
    begun = time.monotonic()
    status, error = spell(sound, *("GET /healthz HTTP/1.1\r\nX-Slow: " + "a" * 1000), pause=0.02)
    assert (status, error["field"]) == (408, "headers")
    assert time.monotonic() - begun < 10


def test_a_body_that_trickles_is_a_408_however_often_a_byte_comes(start: Start) -> None:
    edge = start(body_seconds=0.5)
    head = START.format(key=edge.key) + "Content-Length: 1000\r\n\r\n"
    status, error = spell(edge, head, *("{" + " " * 500), pause=0.02)
    assert (status, error["field"]) == (408, "body")
    assert edge.answer({"user_id": "ann"})["rung"] == "personalised"


def test_a_connection_on_which_nothing_is_asked_is_closed(edge: Edge) -> None:
    edge.uvicorn.timeout_keep_alive = 0.3
    host, port = edge.url.removeprefix("http://").split(":")
    for first in (b"", b"\r\n", b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"):
        with socket.create_connection((host, int(port)), timeout=20) as client:
            client.sendall(first)
            assert b"".join(until_closed(client)).startswith(b"HTTP/1.1 200" if len(first) > 2 else b"")


def test_two_requests_in_one_read_get_their_own_answers(edge: Edge) -> None:
    ask = (START + "Content-Length: 7\r\n\r\n").format(key=edge.key)
    host, port = edge.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=20) as client:
        last = "GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        client.sendall(f'{ask}{{"k":3}}{ask}{{"k":0}}{last}'.encode())
        got = b"".join(until_closed(client))
    assert [part[:3] for part in got.split(b"HTTP/1.1 ")[1:]] == [b"200", b"400", b"200"]


@pytest.mark.parametrize("offer", ["websocket", "h2c"])
def test_an_offer_of_another_protocol_is_passed_over(edge: Edge, caplog: pytest.LogCaptureFixture, offer: str) -> None:
    for _ in range(2):  # on one connection
        assert len(edge.get("k=1", connection="Upgrade", upgrade=offer).json()["items"]) == 1
    assert caplog.text == ""


@pytest.mark.parametrize("offer", ["websocket", "h2c"])
def test_behind_an_offer_of_another_protocol_no_second_request_can_hide(sound: Edge, offer: str) -> None:
    hidden = (START + "Content-Length: 17\r\n\r\n").format(key=sound.key) + '{"user_id":"bob"}'
    head = START + f"Connection: Upgrade\r\nUpgrade: {offer}\r\nContent-Length: {len(hidden)}\r\n\r\n"
    status, error = spell(sound, head.format(key=sound.key) + hidden)
    assert (status, error["field"]) == (400, "upgrade")


def test_a_users_key_opens_no_other_users_data_however_it_is_asked(edge: Edge, torchserve: FakeTorchServe) -> None:
    edge.answer({"user_id": "bob"})  # what is kept of him is there to be stolen
    ann = edge.key_of("ann")
    asked = [
        edge.ask({"user_id": "bob"}, key=ann),
        edge.ask({"user_id": "ann "}, key=ann),
        edge.ask({"user_id": ""}, key=ann),
        edge.get("user_id=bob", key=ann),
        edge.get("user_id=%62ob", key=ann),
        edge.ask(b'{"user_id":"\\u0062ob"}', key=ann),
    ]
    assert [(got.status_code, got.json()["field"]) for got in asked] == [(403, "user_id")] * len(asked)
    for twice in (b'{"user_id":"ann","user_id":"bob"}', b'{"user_id":"bob","user_id":"ann"}'):
        assert edge.ask(twice, key=ann).status_code == 400
    assert edge.get("user_id=ann&user_id=bob", key=ann).status_code == 400
    assert torchserve.users_asked() == ["bob"]
    assert edge.ask({"user_id": None}, key=ann).json()["items"][0]["item_id"] == "ann-000"


@pytest.mark.parametrize("name", ["Authorization: Bearer ", "X-API-Key: "])
def test_two_keys_in_one_header_open_nothing(edge: Edge, name: str) -> None:
    for first, second in ((edge.key, "x"), ("x", edge.key)):
        keys = f"{name}{first}\r\n{name}{second}\r\n"
        head = f"GET /v1/recommendations HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{keys}\r\n"
        status, error = spell(edge, head)
        assert (status, error["field"], error["message"]) == (400, name.split(":")[0].lower(), "is stated twice")
