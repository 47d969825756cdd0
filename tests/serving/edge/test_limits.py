"""What one key may send: requests, bytes, and how large and how dense a body may be; the others notice nothing."""

from __future__ import annotations

import asyncio
import json
import threading

import httpx
import pytest
from fake_torchserve import FakeTorchServe
from running import Edge, Start

from serving.edge.limits import MAX_USER_VALUES, MAX_VALUES
from serving.edge.request_parsing import HEAVY_BYTES, MAX_HEAVY, MAX_HEAVY_KEYS, HeavyBodies
from serving.worker.request import MAX_HISTORY
from web.errors import ApiError

EVENT = b'{"item_id":"a","event_time":"2026-01-01T00:00:00Z"}'


def post(edge: Edge, content: object, key: str) -> httpx.Response:
    """Iterators are sent in chunks, without a length."""
    return edge.http.post("/v1/recommendations", content=content, headers={"authorization": f"Bearer {key}"})


def padded(size: int, user_id: str = "ann") -> bytes:
    """A valid body of so many bytes."""
    return (json.dumps({"user_id": user_id}) + " " * size)[:size].encode()


def refusals(edge: Edge, status: int, reason: str) -> float:
    return edge.count("tidegate_edge_refusals_total", status=str(status), reason=reason)


@pytest.mark.parametrize("workers", [1, 4])
def test_too_many_requests_are_a_429_with_a_time_to_wait(start: Start, workers: int) -> None:
    edge = start(rate_per_second=0.04, rate_burst=8, workers=workers)
    statuses = [edge.ask({}).status_code for _ in range(8 // workers + 1)]
    assert statuses == [200] * (8 // workers) + [429]
    got = edge.get("k=1")
    assert got.status_code == 429
    assert 0 < int(got.headers["retry-after"]) <= 25 * workers
    assert (got.json()["code"], got.json()["field"]) == (429, None)
    assert "rate_per_second is the limit" in got.json()["message"]
    assert edge.count("tidegate_edge_refusals_total", status="429", reason="rate_per_second") == 2


@pytest.mark.parametrize("chunked", [False, True])
def test_too_many_bytes_are_a_429_that_names_its_limit(start: Start, chunked: bool) -> None:
    edge = start(user_bytes_per_second=20, user_max_body_bytes=1024)
    ann, bob = edge.key_of("ann"), edge.key_of("bob")

    def body() -> object:
        return iter([padded(300), b" " * 300]) if chunked else padded(600)

    assert post(edge, body(), ann).status_code == 200
    got = post(edge, body(), ann)
    assert (got.status_code, got.json()["code"]) == (429, 429)
    assert 1 <= int(got.headers["retry-after"]) <= 10
    assert got.json()["message"].startswith(
        "the API key sends too many bytes: user_bytes_per_second is the limit; wait"
    )
    assert refusals(edge, 429, "user_bytes_per_second") == 1
    assert post(edge, padded(600, "bob"), bob).status_code == 200  # another key has its own


def test_the_bytes_of_a_declared_length_count_before_they_come(start: Start, torchserve: FakeTorchServe) -> None:
    edge = start(bytes_per_second=1, max_body_bytes=1024)
    assert post(edge, padded(1024), edge.key).status_code == 200
    for _ in range(3):
        assert post(edge, padded(1024), edge.key).status_code == 429
    assert torchserve.requested_users() == ["ann"]


def test_a_user_key_has_limits_of_its_own(start: Start) -> None:
    edge = start(user_rate_per_second=0.001, user_rate_burst=2)
    ann = edge.key_of("ann")
    assert [edge.ask({}, key=ann).status_code for _ in range(3)] == [200, 200, 429]
    assert refusals(edge, 429, "user_rate_per_second") == 1
    assert {edge.ask({}).status_code for _ in range(5)} == {200}


def test_a_user_key_sends_small_bodies_only(edge: Edge) -> None:
    large = edge.settings.user_max_body_bytes + 1
    assert post(edge, padded(large), edge.key).status_code == 200
    ann = edge.key_of("ann")
    for body in (padded(large), iter([padded(large - 100), b" " * 100])):
        got = post(edge, body, ann)
        assert (got.status_code, got.json()["field"]) == (413, "body")
    assert refusals(edge, 413, "long_body") == 2
    other = edge.key_of("ann")  # what was read of a body without a length counts for the first key
    assert post(edge, padded(large - 1), other).status_code == 200


@pytest.mark.parametrize("value", [b"{},", b"[],", b"1,", b'{"a":1},', b"[[", b'{"a":['])
def test_a_body_of_many_values_is_refused_before_it_is_parsed(
    edge: Edge, value: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    parsed: list[int] = []
    monkeypatch.setattr("serving.edge.app.parse_json", lambda content: parsed.append(len(content)))
    ann = edge.key_of("ann")
    for key, most in ((ann, MAX_USER_VALUES), (edge.key, MAX_VALUES)):
        got = edge.send("POST", b'{"history":[' + value * (most + 1), key)
        assert (got.status_code, got.json()["field"]) == (400, "body")
        assert f"the limit is {most}" in got.json()["message"]
    assert (parsed, refusals(edge, 400, "many_values")) == ([], 2)


def test_the_longest_history_is_within_the_limit_of_values(edge: Edge) -> None:
    assert edge.send("POST", b'{"history":[' + b",".join([EVENT] * MAX_HISTORY) + b"]}", None).status_code == 200


def test_a_long_body_is_parsed_in_a_thread_and_a_short_one_at_once() -> None:
    bodies = HeavyBodies()
    own = threading.get_ident()
    assert asyncio.run(bodies.run("key", HEAVY_BYTES, threading.get_ident)) == own
    assert asyncio.run(bodies.run("key", HEAVY_BYTES + 1, threading.get_ident)) != own


def test_long_bodies_wait_for_their_turn_and_too_many_are_a_429() -> None:
    bodies, at_once, most = HeavyBodies(), [0], [0]
    done = threading.Event()

    def parse() -> str:
        at_once[0] += 1
        most[0] = max(most[0], at_once[0])
        done.wait(10)
        at_once[0] -= 1
        return "parsed"

    async def crowd() -> list[object]:
        calls = [asyncio.create_task(bodies.run("key", HEAVY_BYTES + 1, parse)) for _ in range(MAX_HEAVY + 1)]
        (first,), _ = await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
        assert isinstance(first.exception(), ApiError)
        done.set()
        return await asyncio.gather(*calls, return_exceptions=True)

    *parsed, refused = asyncio.run(crowd())
    assert parsed == ["parsed"] * MAX_HEAVY
    assert isinstance(refused, ApiError)
    assert (refused.status_code, refused.reason, most[0]) == (429, "heavy_bodies", 1)


def test_long_bodies_of_one_key_delay_those_of_another_by_one_and_refuse_none() -> None:
    bodies, order = HeavyBodies(), []

    async def crowd() -> list[object]:
        keys = ["one"] * (MAX_HEAVY + 1) + ["other"]
        calls = [bodies.run(key, HEAVY_BYTES + 1, lambda key=key: order.append(key)) for key in keys]
        return await asyncio.gather(*calls, return_exceptions=True)

    *_, refused, other = asyncio.run(crowd())
    assert isinstance(refused, ApiError)
    assert other is None
    assert order == ["one", "other"] + ["one"] * (MAX_HEAVY - 1)


def test_long_bodies_of_too_many_keys_are_a_429() -> None:
    bodies = HeavyBodies()

    async def crowd() -> list[object]:
        calls = [bodies.run(f"{key}", HEAVY_BYTES + 1, lambda: "parsed") for key in range(MAX_HEAVY_KEYS + 1)]
        return [*await asyncio.gather(*calls, return_exceptions=True), await bodies.run("x", HEAVY_BYTES + 1, str)]

    *parsed, refused, later = asyncio.run(crowd())
    assert parsed == ["parsed"] * MAX_HEAVY_KEYS
    assert isinstance(refused, ApiError)
    assert later == ""


@pytest.mark.parametrize(
    "headers", [{f"x-{number}": "a" for number in range(101)}, {"x-long": "a" * 20_000, "x-longer": "b" * 20_000}]
)
def test_too_many_or_too_long_headers_are_a_431(edge: Edge, headers: dict[str, str]) -> None:
    got = edge.ask({}, **{name.replace("-", "_"): value for name, value in headers.items()})
    assert (got.status_code, got.json()["field"], got.headers["connection"]) == (431, "headers", "close")
    assert refusals(edge, 431, "long_headers") == 1
