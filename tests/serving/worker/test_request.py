"""A request is checked field by field, and an error names the field."""

from __future__ import annotations

import pytest

from serving.worker.request import DEFAULT_K, MAX_FIELD_LENGTH, MAX_HISTORY, RequestError, parse

NOW = 1_767_225_600_000_000  # 2026-01-01T00:00:00Z
EVENT = {"item_id": "a", "event_time": "2026-01-01T00:00:00Z"}


def test_an_empty_object_asks_for_the_default_list_now() -> None:
    request = parse({}, NOW)

    assert (request.user_id, request.history, request.has_history) == (None, [], False)
    assert (request.k, request.time_us) == (DEFAULT_K, NOW)


def test_an_empty_history_is_a_history_and_null_is_none() -> None:
    assert parse({"history": []}, NOW).has_history
    assert not parse({"history": None}, NOW).has_history


def test_a_time_without_an_offset_is_utc() -> None:
    assert parse({"time": "2026-01-01T00:00:00"}, 0).time_us == NOW
    assert parse({"time": "2026-01-01T01:00:00+01:00"}, 0).time_us == NOW


def test_one_value_of_a_filter_is_a_list_of_one() -> None:
    assert parse({"filters": {"color": "red"}}, NOW).filters == {"color": ["red"]}


@pytest.mark.parametrize(
    ("body", "error"),
    [
        ([], "body: expected a JSON object"),
        ({"users": 1}, "users: is not a known field"),
        ({"user_id": "x" * 257}, "user_id: string should have at most 256 characters"),
        ({"user_id": " "}, "user_id: expected text that is not blank, without control characters"),
        ({"user_id": "a\x00b"}, "user_id: expected text that is not blank, without control characters"),
        ({"history": [{**EVENT, "item_id": ""}]}, "history[0].item_id: expected text that is not blank"),
        ({"history": [{**EVENT, "item_id": "x" * 10_000}]}, "history[0].item_id: string should have at most 256"),
        ({"exclude": ["a", "\t"]}, "exclude[1]: expected text that is not blank"),
        (
            {"history": [{"item": "a", "at": 1}]},
            "history[0].item_id: is required; unknown field item, at; history[0].event_time is required; unknown field",
        ),
        ({"k": 1001}, "k: input should be less than or equal to 1000"),
        ({"k": 2.5}, "k: input should be a valid integer"),
        (
            {"history": [EVENT] * (MAX_HISTORY + 1)},
            "history: list should have at most 10000 items after validation, not 10001",
        ),
        ({"history": ["a"]}, "history[0]: expected a JSON object"),
        ({"history": [EVENT, {"item": "a"}]}, "history[1].item_id: is required; unknown field item"),
        ({"history": [{"item_id": "a"}]}, "history[0].event_time: is required"),
        ({"history": [{**EVENT, "item_id": None}]}, "history[0].item_id: input should be a valid string"),
        ({"history": [{**EVENT, "event_time": 5}]}, "history[0].event_time: expected an ISO 8601 time"),
        ({"time": "soon"}, "time: 'soon' is not an ISO 8601 time"),
        ({"context": {"device": []}}, "context.device: expected text, a number within 64 bits, true, false or null"),
        ({"exclude": [1]}, "exclude[0]: input should be a valid string"),
    ],
)
def test_an_error_names_the_field_and_what_was_expected(body: object, error: str) -> None:
    with pytest.raises(RequestError) as raised:
        parse(body, NOW)

    assert str(raised.value).startswith(error)


def test_ids_get_their_one_spelling() -> None:
    body = {"user_id": " 7.0", "history": [{**EVENT, "item_id": "Jose\u0301 "}], "exclude": ["8.0", "\u00a0a"]}

    request = parse(body, NOW)
    numeric = parse(body, NOW, numeric_ids=["user_id", "item_id"])

    assert (request.user_id, request.history, request.exclude) == ("7.0", [("Jos\u00e9", NOW)], ["8.0", "a"])
    assert (numeric.user_id, numeric.exclude) == ("7", ["8", "a"])


def test_more_fields_of_an_event_are_allowed() -> None:
    assert parse({"history": [{**EVENT, "event_type": "play"}]}, 0).history == [("a", NOW)]


def test_a_long_name_is_cut_in_the_error() -> None:
    error = RequestError("filters." + "x" * 1000, "items have no such attribute")

    assert len(error.field) == MAX_FIELD_LENGTH
    assert len(str(error)) < 200
