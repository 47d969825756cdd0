"""Segment's messages become events of our schema; what is wrong with one is named by its field."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from data.collect.mapping import MappingError, load_rules
from data.collect.messages import (
    FUTURE_US,
    MAX_EVENT_BYTES,
    Arrival,
    Reading,
    Reason,
    Rejection,
    fingerprint,
    read_message,
    to_events,
)
from data.collect.schema import (
    Add,
    Alias,
    Context,
    Custom,
    Event,
    Group,
    Identify,
    Impression,
    Page,
    Play,
    Purchase,
    View,
)
from data.columns import MINUTE
from data.times import from_iso

NOW = from_iso("2026-03-01T12:00:00Z")
ARRIVAL, READING = Arrival(NOW), Reading(load_rules())


def message(**fields: Any) -> bytes:
    return json.dumps({"type": "track", "messageId": "m1", "userId": "ann", **fields}).encode()


def read(raw: bytes, arrival: Arrival = ARRIVAL, reading: Reading = READING) -> list[Event]:
    return to_events(read_message(raw, arrival), arrival, reading)


def events(sent_us: int | None = None, **fields: Any) -> list[Event]:
    return read(message(**fields), Arrival(NOW, sent_us))


def rejection(raw: bytes | None = None, **fields: Any) -> tuple[Reason, str | None]:
    with pytest.raises(Rejection) as caught:
        read(raw if raw is not None else message(**fields))
    assert caught.value.message
    return caught.value.reason, caught.value.field


def test_our_own_types_have_the_names_of_the_schema() -> None:
    (event,) = events(event="play", properties={"item_id": "film", "progress": 0.5}, timestamp="2026-03-01T10:00:00.5Z")
    assert event == Play(
        event_id="m1", event_time=NOW - 2 * 3_600_000_000 + 500_000, user_id="ann", item_id="film", progress=0.5
    )


def test_an_order_is_a_purchase_of_each_of_its_products() -> None:
    products = [{"product_id": "p1", "price": "3.5", "quantity": 2}, {"sku": 7}]
    found = events(event="Order Completed", properties={"order_id": "o", "currency": "USD", "products": products})
    common = {"event_time": NOW, "user_id": "ann", "currency": "USD", "order_id": "o"}
    assert found == [
        Purchase(event_id="m1", item_id="p1", price=3.5, quantity=2, **common),
        Purchase(event_id="m1#2", item_id="7", **common),
    ]


@pytest.mark.parametrize(
    ("name", "properties", "expected"),
    [
        ("Product Viewed", {"product_id": "p"}, [View]),
        ("Product Added", {"sku": "p"}, [Add]),
        ("view_item_list", {"items": [{"item_id": "a", "index": 1}, {"item_id": "b", "index": 2}]}, [Impression] * 2),
        ("purchase", {"items": [{"item_id": "a"}], "transaction_id": "t"}, [Purchase]),
        ("purchase", {"item_id": "a"}, [Purchase]),
        ("Video Content Started", {"asset_id": "a"}, [Play]),
        ("Something else", {"secret": "x"}, [Custom]),
    ],
)
def test_names_of_other_tools_are_mapped(name: str, properties: dict, expected: list) -> None:
    assert [type(event) for event in events(event=name, properties=properties)] == expected


def test_an_unknown_event_keeps_its_name_and_nothing_else() -> None:
    assert events(event="Quiz Failed", properties={"answer": "x"}) == [
        Custom(event_id="m1", event_time=NOW, user_id="ann", name="Quiz Failed")
    ]


def test_the_other_calls() -> None:
    assert isinstance(events(type="page", name="Home")[0], Page)
    assert events(type="identify", traits={"plan": "free", "tags": ["a"], "age": 3})[0] == Identify(
        event_id="m1", event_time=NOW, user_id="ann", traits={"plan": "free", "age": 3}
    )
    assert isinstance(events(type="alias", previousId="old")[0], Alias)
    assert isinstance(events(type="group", groupId=5)[0], Group)


def test_traits_of_a_person_may_come_in_the_context() -> None:
    context = {"traits": {"plan": "free"}}
    assert events(type="identify", context=context)[0].traits == {"plan": "free"}
    assert events(type="identify", context=context, traits={"age": 3})[0].traits == {"age": 3}


def test_ids_are_spelled_as_everywhere() -> None:
    (event,) = events(event="view", userId=" 12 ", anonymousId=3.0, properties={"item_id": 7})
    assert (event.user_id, event.anonymous_id, event.item_id) == ("12", "3", "7")


def test_the_context_is_read_as_far_as_it_fits() -> None:
    context = {
        "device": {"type": "ios", "model": "iPad8,6"}, "os": {"name": "iPadOS"}, "app": {"name": "Shop", "version": 2},
        "network": {"wifi": True}, "screen": {"orientation": "Portrait"}, "timezone": "Asia/Kolkata", "locale": 5,
        "location": {"country": "in", "city": "Pune"}, "page": {"path": "/p", "search": "?q=secret"}, "ip": "10.0.0.1",
    }  # fmt: skip
    assert events(event="view", properties={"item_id": "a"}, context=context)[0].context == Context(
        device="tablet", os="iPadOS", app="Shop", network="wifi", orientation="portrait", local_time="17:30",
        country="IN", city="Pune", page="/p",
    )  # fmt: skip


@pytest.mark.parametrize("name", ["Mars/Olympus", "America", "../etc", "a\0b", "z" * 5_000, "é", "", 5, ["UTC"]])
def test_an_unknown_time_zone_costs_nothing_but_the_local_time(name: Any) -> None:
    context = {"timezone": name, "os": {"name": "Linux"}}
    assert events(event="view", properties={"item_id": "a"}, context=context)[0].context == Context(os="Linux")


@pytest.mark.parametrize(
    "context", [b'{"x": "\xff"}', b'{"x": 1e400}', b'{"x": ' + b"9" * 5_000 + b"}", b"[" * 900 + b"]" * 900]
)
def test_a_context_that_cannot_be_read_is_named(context: bytes) -> None:
    raw = message(event="view", properties={"item_id": "a"}, context="CONTEXT").replace(b'"CONTEXT"', context)
    assert rejection(raw) == (Reason.SCHEMA, "context")


def test_consent_of_the_message_says_which_purposes_are_allowed() -> None:
    preferences = {"analytics": True, "model_training": False, "something": True}
    context = {"consent": {"categoryPreferences": preferences}}
    assert events(event="view", properties={"item_id": "a"}, context=context)[0].purposes == ("analytics",)
    assert events(event="view", properties={"item_id": "a"})[0].purposes == ()
    raw = message(event="view", properties={"item_id": "a"})
    assert read(raw, reading=Reading(READING.rules, ("analytics",)))[0].purposes == ("analytics",)
    raw = message(event="view", properties={"item_id": "a"}, context={"consent": {"categoryPreferences": {"x": True}}})
    assert read(raw, reading=Reading(READING.rules, ("analytics",)))[0].purposes == ()


def test_a_senders_clock_that_is_off_is_corrected() -> None:
    ahead = NOW + 60 * MINUTE
    (event,) = events(ahead, event="view", properties={"item_id": "a"}, timestamp="2026-03-01T12:50:00Z")
    assert event.event_time == from_iso("2026-03-01T11:50:00Z")
    (event,) = events(NOW - MINUTE // 2, event="view", properties={"item_id": "a"}, timestamp="2026-03-01T11:00:00Z")
    assert event.event_time == from_iso("2026-03-01T11:00:00Z")


@pytest.mark.parametrize(
    ("fields", "reason", "field"),
    [
        ({"type": "dance"}, Reason.SCHEMA, "type"),
        ({"messageId": " "}, Reason.SCHEMA, "messageId"),
        ({"messageId": "m#2"}, Reason.SCHEMA, "messageId"),
        ({"messageId": "m" * 191}, Reason.SCHEMA, "messageId"),
        ({"type": None}, Reason.SCHEMA, "type"),
        ({"event": "view", "userId": None}, Reason.SCHEMA, "userId"),
        ({"event": "view", "userId": {"a": 1}}, Reason.SCHEMA, "userId"),
        ({"event": "view", "userId": True}, Reason.SCHEMA, "userId"),
        ({"event": "view", "userId": "a\u0000b"}, Reason.SCHEMA, "userId"),
        ({"event": "view"}, Reason.SCHEMA, "item_id"),
        ({"event": None}, Reason.SCHEMA, "event"),
        ({"event": "Order Completed", "properties": {"products": []}}, Reason.SCHEMA, "properties"),
        ({"type": "alias"}, Reason.SCHEMA, "previous_id"),
        ({"event": "rating", "properties": {"item_id": "a", "value": "good"}}, Reason.SCHEMA, "value"),
        ({"event": "play", "properties": {"item_id": "a", "progress": 3}}, Reason.SCHEMA, "progress"),
        ({"event": "view", "properties": {"item_id": 1.5}}, Reason.SCHEMA, "item_id"),
        ({"event": "rating", "properties": {"item_id": "a", "value": "nan"}}, Reason.SCHEMA, "value"),
        ({"event": "purchase", "properties": {"item_id": "a", "quantity": "inf"}}, Reason.SCHEMA, "quantity"),
        ({"event": "purchase", "properties": {"item_id": "a", "currency": "USD\n"}}, Reason.SCHEMA, "currency"),
        ({"event": "view", "userId": float(2**53)}, Reason.SCHEMA, "userId"),
        ({"event": "view", "userId": "a" * 30_000}, Reason.SCHEMA, "userId"),
        ({"event": "view", "timestamp": "yesterday"}, Reason.TIME, "timestamp"),
        ({"event": "view", "timestamp": "2026-03-02T12:00:00Z"}, Reason.TIME, "timestamp"),
        ({"event": "view", "timestamp": "1931-01-01"}, Reason.TIME, "timestamp"),
        ({"event": "view", "context": [1]}, Reason.SCHEMA, "context"),
        ({"event": "view", "properties": {"x": "y" * MAX_EVENT_BYTES}}, Reason.SIZE, None),
        ({"event": "purchase", "properties": {"items": [{"item_id": "a"}] * 500}}, Reason.SIZE, "properties"),
    ],
)
def test_what_is_wrong_is_named(fields: dict, reason: Reason, field: str | None) -> None:
    assert rejection(**fields) == (reason, field)


@pytest.mark.parametrize("raw", [b"", b"[]", b"{", b"[" * 30_000, b'{"type":"track","messageId":"\\ud800"}', b"\xff{}"])
def test_what_is_no_message_is_refused(raw: bytes) -> None:
    assert rejection(raw)[0] is Reason.SCHEMA


def test_an_event_a_little_ahead_is_accepted() -> None:
    (event,) = events(event="view", properties={"item_id": "a"}, timestamp="2026-03-01T12:04:59Z")
    assert NOW < event.event_time < NOW + FUTURE_US


def test_a_repeated_message_has_the_same_fingerprint_and_a_changed_one_another() -> None:
    def of(**fields: Any) -> bytes:
        return fingerprint(read_message(message(**fields), Arrival(NOW)))

    assert of(event="view", sentAt="2026-03-01T12:00:00Z") == of(event="view", sentAt="2026-03-01T12:05:00Z")
    assert of(event="view") != of(event="click")


def test_a_users_mapping_adds_and_replaces_names(tmp_path: Path) -> None:
    own = tmp_path / "mapping.yaml"
    own.write_text("Song Liked: {type: rating, item_id: [song.id], value: [stars]}\n", encoding="utf-8")
    raw = message(event="Song Liked", properties={"song": {"id": "s"}, "stars": 5})
    (event,) = read(raw, reading=Reading(load_rules(own)))
    assert (event.item_id, event.value) == ("s", 5)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("[]", "no mapping"),
        ("A: {type: dance}", "'A' needs a `type`"),
        ("A: {type: view, price: [p]}", "no field 'price'"),
        ("A: {type: view, item_id: p}", "expected a list"),
        ("A: {type: view", "cannot be read"),
    ],
)
def test_a_mapping_that_is_wrong_is_refused(tmp_path: Path, text: str, named: str) -> None:
    own = tmp_path / "mapping.yaml"
    own.write_text(text, encoding="utf-8")
    with pytest.raises(MappingError, match=named):
        load_rules(own)


def test_unknown_names_and_properties_are_refused_where_that_is_the_rule() -> None:
    strict = Reading(READING.rules, reject_unknown=True)
    for raw, field in (
        (message(event="Quiz Failed"), "event"),
        (message(event="view", properties={"item_id": "a", "colour": 1}), "properties.colour"),
        (message(event="view_item", properties={"items": [{"item_id": "a", "colour": 1}]}), "properties.colour"),
    ):
        with pytest.raises(Rejection) as caught:
            read(raw, reading=strict)
        assert caught.value.field == field
    assert read(message(event="Product Viewed", properties={"sku": "a", "position": 2}), reading=strict)


def test_a_message_without_an_id_gets_one() -> None:
    raw = b'{"userId": "ann", "event": "view", "properties": {"item_id": "a"}}'
    one, other = (read(raw, Arrival(NOW, kind="track"))[0] for _ in range(2))
    assert one.event_id
    assert one.event_id != other.event_id


def test_a_batchs_context_holds_for_messages_without_one() -> None:
    arrival = Arrival(NOW, context=b'{"os": {"name": "Linux"}}')
    raw = message(event="view", properties={"item_id": "a"})
    assert read(raw, arrival)[0].context == Context(os="Linux")
