"""A line is taken whole, or refused by the field that is wrong."""

from __future__ import annotations

import json

import pytest

from data.columns import DAY, HOUR
from data.columns import event_id as ingested_id
from data.consent import Answer, ConsentRecord
from features import materialization
from features.online.errors import ProfileError
from features.online.profile import Event, Profile, TimedValue

T = 1_780_344_000_000_000  # 2026-06-01T20:00:00Z
NOW = T + 5
EVENT = {"user_id": "u", "event_time": "2026-06-01T20:00:00Z", "item_id": "i"}


def parse(body: object, types: list[str] | None = None, min_value: float | None = None) -> list[Profile]:
    return materialization.parse_line(body if isinstance(body, str) else json.dumps(body), NOW, types, min_value)


def test_an_event_without_id_gets_the_one_that_ingest_would_give_it() -> None:
    expected = ingested_id("u", "i", T, "interaction")

    assert parse(EVENT)[0].events == (Event(T, expected, NOW, "i", "interaction"),)


def test_ids_of_a_line_get_their_one_spelling() -> None:
    line = json.dumps(EVENT | {"user_id": " 7.0", "item_id": "Jose\u0301 "})

    (text,) = materialization.parse_line(line, NOW, None, None)
    (numeric,) = materialization.parse_line(line, NOW, None, None, ["user_id"])

    assert (text.user_id, numeric.user_id) == ("7.0", "7")
    assert numeric.events[0].item_id == "Jos\u00e9"
    assert numeric.events[0].event_id == ingested_id("7", "Jos\u00e9", T, "interaction")
    with pytest.raises(ProfileError, match="item_id: is longer than 256 characters"):
        parse(EVENT | {"item_id": "x" * 300})


def test_fields_of_a_line_are_kept() -> None:
    stated = {"event_id": "e", "event_type": "play", "known_time": "2026-06-01T22:00:00+02:00"}

    assert parse(EVENT | stated)[0].events == (Event(T, "e", T, "i", "play"),)


def test_traits_and_consent_have_the_time_of_their_line() -> None:
    about = {"user_id": "u", "event_time": "2026-06-01T20:00:00", "event_id": "e"}

    assert parse(about | {"traits": {"plan": "free", "age": None}})[0].traits == {
        "plan": TimedValue(T, "e", NOW, "free"), "age": TimedValue(T, "e", NOW, None),
    }  # fmt: skip
    (change,) = parse(about | {"consent": {"model_training": False}})
    assert change.consent == ConsentRecord({"model_training": Answer(False, T, "events")})
    more = {"source": "banner", "expires": "2026-06-02T20:00:00Z"}
    (change,) = parse(about | {"consent": {"model_training": True}} | more)
    assert change.consent == ConsentRecord({"model_training": Answer(True, T, "banner", T + DAY)})


def test_a_no_is_taken_whatever_its_time_and_a_yes_from_the_future_is_refused() -> None:
    ahead = {"user_id": "u", "event_time": "2026-06-01T21:00:00Z"}  # an hour: the clock that stamped it runs ahead

    (change,) = parse(ahead | {"consent": {"model_training": False}})
    assert change.consent == ConsentRecord({"model_training": Answer(False, T + HOUR, "events")})
    with pytest.raises(ProfileError, match="event_time: is in the future"):
        parse(ahead | {"consent": {"model_training": False, "personalization": True}})
    with pytest.raises(ProfileError, match="event_time: is in the future"):
        parse(ahead | {"consent": {"personalization": True}, "known_time": "2026-06-01T21:00:00Z"})
    assert parse(ahead | {"event_time": "2026-06-01T20:00:30Z", "consent": {"personalization": True}})


@pytest.mark.parametrize(
    ("types", "min_value", "more", "kept"),
    [
        (None, None, {}, 1),
        (["play"], None, {"event_type": "play"}, 1),
        (["play"], None, {"event_type": "skip"}, 0),
        (None, 4, {"value": 4}, 1),
        (None, 4, {"value": 3.5}, 0),
        (None, 4, {}, 0),
    ],
)
def test_events_that_ingest_would_drop_are_dropped(types, min_value, more: dict, kept: int) -> None:
    assert len(parse(EVENT | more, types, min_value)) == kept


@pytest.mark.parametrize(
    ("field", "body"),
    [
        ("line", "{"),
        ("line", "[" * 100_000),
        ("line", "7"),
        ("line", {"user_id": "u", "event_time": "2026-06-01"}),
        ("line", EVENT | {"traits": {}}),
        ("colour", EVENT | {"colour": "red"}),
        ("user_id", EVENT | {"user_id": 7}),
        ("item_id", EVENT | {"item_id": ["i"]}),
        ("event_time", EVENT | {"event_time": "yesterday"}),
        ("event_time", EVENT | {"event_time": 7}),
        ("event_time", EVENT | {"event_time": "1970-01-01"}),
        ("known_time", EVENT | {"known_time": "2026-06-01T19:59:59Z"}),
        ("known_time", EVENT | {"event_time": "2026-06-01T20:00:01Z"}),  # later than now
        ("event_id", EVENT | {"event_id": ""}),
        ("event_type", EVENT | {"event_type": 7}),
        ("event_type", EVENT | {"event_type": None}),
        ("value", EVENT | {"value": "high"}),
        ("value", EVENT | {"value": True}),
        ("traits", {"user_id": "u", "event_time": "2026-06-01", "traits": [1]}),
        ("traits.age", {"user_id": "u", "event_time": "2026-06-01", "traits": {"age": [1]}}),
        ("consent.personalization", {"user_id": "u", "event_time": "2026-06-01", "consent": {"personalization": 1}}),
        ("consent", {"user_id": "u", "event_time": "2026-06-01", "consent": ["personalization"]}),
        ("source", {"user_id": "u", "event_time": "2026-06-01", "consent": {"personalization": True}, "source": 7}),
        ("consent", {"user_id": "u", "event_time": "2026-06-01", "consent": {"Personalization": False}}),
        (
            "expires",
            {"user_id": "u", "event_time": "2026-06-01", "consent": {"model_training": True}, "expires": "soon"},
        ),
    ],
)
def test_the_error_names_the_wrong_field(field: str, body: object) -> None:
    with pytest.raises(ProfileError) as refused:
        parse(body)

    assert str(refused.value).startswith(f"{field}: ")
