"""The event reference and the JSON Schema in docs/ are those of the event schema."""

from __future__ import annotations

import json

import msgspec
import pytest

from data.collect.event_reference import PAGE, SCHEMA, event_reference
from data.collect.schema import EVENT_TYPES, PURPOSES, Event, Purchase, decode_events, json_schema


def test_the_pages_are_up_to_date() -> None:
    assert PAGE.read_text(encoding="utf-8") == event_reference(), "run python -m data.collect.event_reference"
    assert json.loads(SCHEMA.read_text(encoding="utf-8")) == json.loads(json.dumps(json_schema()))


@pytest.mark.parametrize("name", sorted(EVENT_TYPES))
def test_every_field_has_a_purpose_a_retention_and_a_privacy_class(name: str) -> None:
    cls: type[Event] = EVENT_TYPES[name]
    properties = json_schema()["$defs"][cls.__name__]["properties"]
    for field in set(cls.__struct_fields__) - {"context"}:
        options = [properties[field], *properties[field].get("anyOf", ())]
        (about,) = [option for option in options if "x-privacy" in option]
        assert about["x-retention-days"] > 0
        assert set(about["x-purposes"]) <= set(PURPOSES)
        assert f"`{field}`" in event_reference()


def test_events_read_back_equal() -> None:
    event = Purchase(event_id="a", event_time=1, item_id="i", price=2**53 + 1.0, purposes=("analytics",))
    assert decode_events(msgspec.json.encode([event])) == [event]
