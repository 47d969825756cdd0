"""JSON that parsers disagree on, broken JSON and other bytes: a verdict or a refusal, and neighbors in a batch are accepted."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from collector_app import RunningCollector

from data.collect.event_log import Position
from data.collect.schema import Identify, decode_events
from data.collect.sqlite_log import SqliteLogReader

# Own cases, with the same names as those of JSONTestSuite: y_ every parser accepts, n_ none, i_ some.
OWN = {
    "y_integer_beyond_floats": b"9007199254740993",
    "y_integer_beyond_64_bits": b"-123456789012345678901234567890",
    "y_float": b"-1.25E-3",
    "y_negative_zero": b"-0",
    "y_text_with_escapes": rb'"\u00e9\uD834\uDD1E\u0000\/\b"',
    "y_text_with_two_line_separators": '"\u2028\u2029"'.encode(),
    "y_space": b" \t\r\n true\n",
    "y_empty_key": b'{"": {"": []}}',
    "y_repeated_key": b'{"a": 1, "a": 2}',
    "i_half_of_a_pair": rb'"\ud800"',
    "i_halves_in_the_wrong_order": rb'"\udd1e\ud834"',
    "i_float_out_of_range": b"1e999",
    "i_integer_of_5000_digits": b"9" * 5_000,
    "i_nested_500": b"[" * 500 + b"]" * 500,
    "i_nested_5000": b"[" * 5_000 + b"]" * 5_000,
    "i_byte_order_mark": b"\xef\xbb\xbf1",
    "n_not_a_number": b"NaN",
    "n_infinity": b"-Infinity",
    "n_leading_zero": b"01",
    "n_leading_plus": b"+1",
    "n_no_fraction": b"1.",
    "n_hexadecimal": b"0x1F",
    "n_single_quotes": b"'a'",
    "n_line_feed_in_text": b'"a\nb"',
    "n_unknown_escape": rb'"\x41"',
    "n_short_escape": rb'"\u00e"',
    "n_comma_at_the_end": b"[1,]",
    "n_two_commas": b"[1,,2]",
    "n_no_colon": b'{"a" 1}',
    "n_comment": b"[1/**/]",
    "n_not_utf_8": b'"\xff"',
    "n_overlong_utf_8": b'"\xc0\xaf"',
    "n_surrogate_in_utf_8": b'"\xed\xa0\x80"',
    "n_utf_16": '"é"'.encode("utf-16"),
    "n_unclosed_list": b"[1",
    "n_unclosed_text": b'"a',
    "n_closed_twice": b"[1]]",
    "n_closed_wrongly": b"[1}",
    "n_end_of_the_batch": b"1]}",
    "n_nothing": b"",
    "n_nul": b"\x00",
    "n_unclosed_lists": b"[" * 5_000,
}
numbered = count()


@pytest.fixture(scope="module")
def collector(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningCollector]:
    running = RunningCollector(tmp_path_factory.mktemp("collect"))
    yield running
    running.close()


def view(message_id: str) -> bytes:
    message = {"type": "track", "messageId": message_id, "userId": "ann", "event": "view"}
    return json.dumps(message | {"properties": {"item_id": "film"}}).encode()


def send(collector: RunningCollector, path: str, content: bytes) -> dict[str, Any] | None:
    """The verdicts; None of a body that was refused."""
    response = collector.post(path, content=content)
    if response.status_code == 200:
        return response.json()["results"]
    assert response.status_code == 400, (path, content[:200], response.text)
    assert response.json().keys() == {"code", "field", "message"}
    return None


def check_body(collector: RunningCollector, content: bytes) -> None:
    """As a body it is refused, or gets verdicts, none of which accepts it: no case is an event."""
    for path in ("/v1/batch", "/v1/track", "/v1/validate"):
        for verdict in (send(collector, path, content) or {}).values():
            assert verdict["status"] == "rejected", (path, content[:200])


def send_between(collector: RunningCollector, element: bytes) -> dict[str, Any] | None:
    """The verdicts on an element of a batch, without those on its two good neighbors, which are accepted."""
    before, after = (f"view-{next(numbered)}" for _ in range(2))
    results = send(collector, "/v1/batch", b'{"batch": [' + b",".join([view(before), element, view(after)]) + b"]}")
    if results is not None:
        assert [results.pop(name)["status"] for name in (before, after)] == ["accepted"] * 2, element[:200]
    return results


def check_element(collector: RunningCollector, name: str, content: bytes) -> None:
    """As an element of a batch it is rejected, or the batch is refused where its end cannot be found."""
    results = send_between(collector, content)
    assert results is not None or not name.startswith("y_")
    assert {verdict["status"] for verdict in (results or {}).values()} <= {"rejected"}, content[:200]


def check_trait(collector: RunningCollector, name: str, content: bytes) -> None:
    """As a trait of a person it is accepted and reads back equal, or rejected; never accepted if it is no JSON."""
    message_id = f"identify-{next(numbered)}"
    head = json.dumps({"type": "identify", "messageId": message_id, "userId": "ann"})[:-1].encode()
    results = send_between(collector, head + b', "traits": {"before": 1, "it": ' + content + b"}}") or {}
    verdict = results.get(message_id, {})
    is_accepted = verdict.get("status") == "accepted"
    assert not (is_accepted and name.startswith("n_")), content[:200]
    assert is_accepted or not name.startswith("y_"), content[:200]
    if not is_accepted:
        return
    partition, offset = Position.parse(verdict["position"])
    message = next(SqliteLogReader(collector.settings.log_folder).read({partition: offset - 1}))
    (event,) = decode_events(message.events)
    assert isinstance(event, Identify)
    sent = json.loads(content)
    kept = {"before": 1} if isinstance(sent, list | dict) else {"before": 1, "it": sent}
    assert repr(event.traits) == repr(kept)  # 1, 1.0 and true differ


@pytest.mark.parametrize("name", OWN)
def test_hostile_json(collector: RunningCollector, name: str) -> None:
    check_body(collector, OWN[name])
    check_element(collector, name, OWN[name])
    check_trait(collector, name, OWN[name])


@pytest.mark.slow
def test_every_file_of_json_test_suite(collector: RunningCollector, real_data: Path) -> None:
    """Its files: https://github.com/nst/JSONTestSuite, folder test_parsing."""
    folder = real_data / "hostile" / "test_parsing"
    if not folder.is_dir():
        pytest.skip(f"no files of JSONTestSuite at {folder}")
    files = sorted(folder.glob("*.json"))
    assert len(files) >= 300
    for file in files:
        content = file.read_bytes()
        check_body(collector, content)
        check_element(collector, file.name, content)
        check_trait(collector, file.name, content)
