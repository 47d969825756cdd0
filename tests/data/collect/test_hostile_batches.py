"""Batches of every kind: a verdict for each message, what is accepted reads back equal, and good neighbors are accepted."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import count, takewhile
from typing import Any

import pytest
from collector_app import RunningCollector
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data.collect.event_log import LoggedMessage
from data.collect.messages import MAX_EVENT_BYTES
from data.collect.schema import Custom, Event, decode_events
from data.collect.sqlite_log import SqliteLogReader
from data.ids import canonical_id
from data.times import from_iso

GIVEN = os.environ.get("TIDEGATE_COLLECT_BATCHES")
EXAMPLES = int(GIVEN or 100)
NOW = datetime.now(UTC)
IDS = {
    "userId": "user_id", "anonymousId": "anonymous_id", "previousId": "previous_id", "groupId": "group_id",
    "item_id": "item_id", "request_id": "request_id", "order_id": "order_id",
}  # fmt: skip
NUMBERS, TEXTS = ("value", "position", "progress", "seconds", "depth", "quantity", "price"), ("query", "channel")
DEPTHS = (5, 200, 990, 3_000)  # of nested lists; parsers give up at about 1,000

any_text = st.text(st.characters(), max_size=12)  # with halves of surrogate pairs
numbers = st.integers(-(2**70), 2**70) | st.floats() | st.sampled_from([2**53 + 1, -(2**53) - 1, 10**30, 1e22, -0.0])
junk = st.recursive(
    st.none() | st.booleans() | numbers | any_text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(any_text, inner, max_size=3),
    max_leaves=6,
)


def mostly(usual: st.SearchStrategy, other: st.SearchStrategy) -> st.SearchStrategy:
    """The usual in seven of eight cases: a message with many odd fields would always be rejected for the first."""
    return st.integers(0, 7).flatmap(lambda number: usual if number else other)


ids = mostly(st.sampled_from(["ann", " bob ", "e\u0301", "007", 7, 3.0, 2**53 + 1]), any_text | numbers)
late = st.sampled_from(["2001-01-01T00:00:00Z", "2020-02-29T23:59:59.999999+05:30", "2020-01-01", NOW.isoformat()])
wrong_times = ["1969-12-31T23:59:59Z", "9999-12-31", "0001-01-01T00:00:00+14:00", "yesterday"]
times = mostly(late, st.sampled_from([*wrong_times, (NOW + timedelta(days=1)).isoformat()]))
amounts = mostly(
    st.sampled_from([0, 1, 0.5, "1", "0.25"]), numbers | st.sampled_from(["nan", "-inf", "1e400", "3 ", [1], {}])
)
calls = st.one_of(
    st.fixed_dictionaries(
        {"type": st.just("track"), "event": st.sampled_from(["view", "click", "impression"])},
        optional={
            "properties": st.fixed_dictionaries({"item_id": ids}, optional={"request_id": ids, "position": amounts})
        },
    ),
    st.fixed_dictionaries(
        {
            "type": st.just("track"),
            "event": st.sampled_from(["rating", "play", "dwell", "scroll", "add", "purchase", "share", "search"]),
            "properties": st.fixed_dictionaries(
                {"item_id": ids},
                optional=dict.fromkeys(NUMBERS, amounts) | dict.fromkeys(TEXTS, any_text) | {"order_id": ids},
            ),
        }
    ),
    st.fixed_dictionaries(
        {
            "type": st.just("track"),
            "event": st.just("Order Completed"),
            "properties": st.fixed_dictionaries(
                {"products": st.lists(st.fixed_dictionaries({"product_id": ids, "price": amounts}), max_size=4)}
            ),
        }
    ),
    st.fixed_dictionaries({"type": st.just("track"), "event": any_text, "properties": junk}),
    st.fixed_dictionaries({"type": st.just("identify"), "traits": st.dictionaries(any_text, junk, max_size=5)}),
    st.fixed_dictionaries({"type": st.sampled_from(["page", "screen"])}, optional={"name": any_text}),
    st.fixed_dictionaries({"type": st.just("alias"), "previousId": ids}),
    st.fixed_dictionaries({"type": st.just("group"), "groupId": ids}, optional={"traits": junk}),
)
common = st.fixed_dictionaries(
    {"userId": ids},
    optional={
        "anonymousId": ids,
        "timestamp": times,
        "context": st.fixed_dictionaries(
            {}, optional=dict.fromkeys(("os", "device", "timezone", "location", "consent", "traits"), junk)
        ),
    },
)
numbered = count()  # message ids are new in every batch


@st.composite
def messages(draw: st.DrawFn) -> tuple[dict[str, Any], bytes]:
    """The fields of a message without its id, and JSON that follows them: nothing, deep nesting or a long text."""
    fields = draw(common) | draw(calls)
    if draw(st.integers(0, 4)) == 0:
        fields[draw(st.sampled_from([*fields, "sentAt", "integrations"]))] = draw(junk)
    match draw(st.sampled_from(["plain"] * 14 + ["deep", "long"])):
        case "plain":
            return fields, b""
        case "long":
            return fields, b', "padding": "' + b"x" * MAX_EVENT_BYTES + b'"'
    place, depth = draw(st.sampled_from(["properties", "context", "traits", "other"])), draw(st.sampled_from(DEPTHS))
    return fields, f', "{place}": '.encode() + b"[" * depth + b"]" * depth


class ReadBack:
    """A collector, and what is new in its log and among its rejected events."""

    def __init__(self, collector: RunningCollector) -> None:
        self.collector = collector
        self._offset = self._number = 0

    def send(self, raws: list[bytes]) -> dict[str, dict[str, Any]]:
        content = b'{"batch": [' + b", ".join(raws) + b"]}"
        response = self.collector.post("/v1/batch", content=content)
        assert response.status_code == 200, (response.text[:500], content[:2_000])
        return response.json()["results"]

    def logged(self) -> list[LoggedMessage]:
        found = list(SqliteLogReader(self.collector.settings.log_folder).read({0: self._offset}))
        self._offset = found[-1].position.offset if found else self._offset
        return found

    def rejected(self) -> list[bytes]:
        newest = self.collector.app.state.service.rejected.search()
        found = list(takewhile(lambda event: event.number > self._number, newest))
        self._number = found[0].number if found else self._number
        return [event.body for event in found]


@pytest.fixture(scope="module")
def read_back(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ReadBack]:
    collector = RunningCollector(tmp_path_factory.mktemp("collect"), events_per_second=1e9, bytes_per_second=1e12)
    yield ReadBack(collector)
    collector.close()


def good(message_id: str) -> bytes:
    message = {"type": "track", "messageId": message_id, "userId": "ann", "event": "view"}
    return json.dumps(message | {"properties": {"item_id": "film"}}).encode()


def spelled(value: Any) -> str | None:
    """An id as the log has it."""
    if value is None or value == "":
        return None
    return canonical_id(value if isinstance(value, str) else str(int(value)), False)


def check_equal(sent: dict[str, Any], events: list[Event], known_us: int) -> None:
    """The events say what the message said."""
    properties = sent.get("properties") or {}
    for number, event in enumerate(events, 1):
        assert event.event_id == sent["messageId"] + (f"#{number}" if number > 1 else "")
        assert event.event_time == (from_iso(sent["timestamp"]) if sent.get("timestamp") else known_us)
        for name, field in IDS.items():
            if name in sent:
                assert getattr(event, field, None) == spelled(sent[name])
            elif name in properties and hasattr(event, field):
                assert getattr(event, field) == spelled(properties[name])
        for name in NUMBERS:
            if hasattr(event, name) and properties.get(name) not in (None, ""):
                assert getattr(event, name) == float(properties[name])
        for name in TEXTS:
            if hasattr(event, name) and properties.get(name) not in (None, ""):
                assert getattr(event, name) == properties[name]
    first = events[0]
    if sent["type"] in ("identify", "group"):
        traits = sent.get("traits")
        if traits is None and sent["type"] == "identify":
            traits = (sent.get("context") or {}).get("traits")
        kept = {name: value for name, value in (traits or {}).items() if not isinstance(value, list | dict)}
        assert repr(sorted(first.traits.items())) == repr(sorted(kept.items()))  # 1, 1.0 and true differ
    if isinstance(first, Custom):
        assert first.name == sent["event"]
    if products := properties.get("products"):
        assert [event.item_id for event in events] == [spelled(product["product_id"]) for product in products]


@pytest.mark.slow
@settings(max_examples=EXAMPLES, deadline=None, derandomize=not GIVEN, suppress_health_check=list(HealthCheck))
@given(drawn=st.lists(messages(), min_size=2, max_size=8), order=st.randoms(use_true_random=False), data=st.data())
def test_any_batch(read_back: ReadBack, drawn: list[tuple[dict, bytes]], order: Any, data: st.DataObject) -> None:
    batch = next(numbered)
    sent = {}
    for number, (fields, more) in enumerate(drawn):
        message_id = f"{batch}-{number}"
        sent[message_id] = json.dumps({"messageId": message_id} | fields).encode()[:-1] + more + b"}"
    neighbors = [f"{batch}-good-{number}" for number in range(3)]
    raws = [good(neighbors[0]), *sent.values()]
    raws.insert(order.randrange(1, len(raws) + 1), good(neighbors[1]))
    raws.append(good(neighbors[2]))

    results = read_back.send(raws)
    logged = {message.message_id: message for message in read_back.logged()}
    rejected = read_back.rejected()

    assert len(results) == len(raws)
    assert [results[name]["status"] for name in neighbors] == ["accepted"] * 3
    accepted = {name for name, verdict in results.items() if verdict["status"] == "accepted"}
    assert logged.keys() == accepted
    for name, raw in sent.items():
        place = name if name in results else f"[{raws.index(raw)}]"
        if name in accepted:
            message = logged[name]
            assert results[name]["position"] == str(message.position)
            check_equal(json.loads(raw), list(decode_events(message.events)), message.known_us)
        else:
            assert (results[place]["status"], bool(results[place]["message"])) == ("rejected", True)
            assert raw[:MAX_EVENT_BYTES] in rejected
    assert len(rejected) == len(raws) - len(accepted)

    again = raws * data.draw(st.integers(1, 2))
    order.shuffle(again)
    repeated = read_back.send(again)
    assert {repeated[name]["status"] for name in accepted} == {"duplicate"}
    assert read_back.logged() == []
    read_back.rejected()


@settings(
    max_examples=max(1, EXAMPLES // 10), deadline=None, derandomize=not GIVEN, suppress_health_check=list(HealthCheck)
)
@given(drawn=messages(), minutes=st.integers(-100_000, 100_000))
def test_a_senders_clock_moves_times_and_nothing_else(
    read_back: ReadBack, drawn: tuple[dict, bytes], minutes: int
) -> None:
    message_id = f"{next(numbered)}-clock"
    sent_at = datetime.now(UTC) + timedelta(minutes=minutes)
    happened = {"messageId": message_id, "timestamp": (sent_at - timedelta(hours=1)).isoformat()}
    message = json.loads(good(message_id)) | happened
    body = {"sentAt": sent_at.isoformat(), "batch": [message]}
    before = time.time_ns() // 1000

    response = read_back.collector.post("/v1/batch", body)

    assert response.json()["results"][message_id]["status"] == "accepted"
    (logged,) = read_back.logged()
    (event,) = decode_events(logged.events)
    assert before - 3_660_000_000 <= event.event_time <= logged.known_us - 3_540_000_000


def test_a_repeated_id_with_other_content_is_a_conflict_also_within_a_batch(read_back: ReadBack) -> None:
    name = f"{next(numbered)}-conflict"
    other = good(name).replace(b"film", b"other")
    verdict = read_back.send([good(name), other, good(name)])[name]
    assert (verdict["status"], verdict["reason"]) == ("rejected", "conflict")
    assert [message.message_id for message in read_back.logged()] == [name]
    assert read_back.rejected() == [other]
