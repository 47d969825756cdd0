"""The body of a request: what is no JSON within its batch is cut out, and costs the other messages nothing."""

from __future__ import annotations

import pytest

from data.collect.request import MAX_MESSAGES, parse_body
from web.errors import ApiError

GOOD = b'{"messageId": "a, [b]", "x": "\\"}{,"}'


@pytest.mark.parametrize(
    "bad",
    [
        b'{"userId": "\\ud800"}',  # half of a surrogate pair, as JavaScript cuts an emoji
        b'{"value": NaN}',  # as Python writes it
        b'{"x": ' + b"[" * 5_000 + b"]" * 5_000 + b"}",
        b'{"x": 01}',
        b'{"x": "\\q"}',
        b'{"x": "a\nb"}',
        b"nothing",
        b'{"x"}',
    ],
)
def test_a_message_that_is_no_json_costs_its_batch_nothing(bad: bytes) -> None:
    content = b'{"sentAt": "[", "batch" :[ ' + GOOD + b" , " + bad + b"," + GOOD + b'], "writeKey": "key"}'
    body = parse_body(content, None)
    assert body.messages == [GOOD, bad, GOOD]
    assert body.write_key == "key"


@pytest.mark.parametrize(
    "content",
    [
        b'{"batch": [NaN',
        b'{"batch": [NaN]',
        b'{"batch": [NaN,]}',
        b'{"batch": [,NaN]}',
        b'{"batch": [NaN], "context": 01}',
        b'{"x": {"batch": [NaN]}}',
        b'{"batch": {"batch": [NaN]}}',
        b'[{"batch": [NaN]}]',
        b'{"batch": ["' + b"\\" * 400_000,
        b'{"batch": [' + b"[" * 100_000,
        b'{"batch": [NaN' + b",1" * MAX_MESSAGES + b"]}",
    ],
)
def test_a_body_that_is_no_json_around_its_batch_is_refused(content: bytes) -> None:
    with pytest.raises(ApiError) as caught:
        parse_body(content, None)
    assert caught.value.status_code == 400


def test_a_batch_that_is_empty_stays_so() -> None:
    assert parse_body(b'{"batch": [ ]}', None).messages == []


def test_a_body_of_very_many_parts_that_is_no_json_is_not_taken_apart() -> None:
    with pytest.raises(ApiError, match="JSON"):
        parse_body(b'{"batch": [NaN, "' + b'", "' * 100_000 + b'"]}', None)
