"""Texts that break what does not expect them, in every text field: accepted ones read back equal, others name the field."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from collector_app import RunningCollector

from data.collect.messages import MAX_MESSAGE_ID
from data.collect.schema import MAX_ID, MAX_TEXT, Event, decode_events
from data.collect.sqlite_log import SqliteLogReader
from data.ids import canonical_id, id_problem

OWN = [
    "", " ", "\t", "0", "-0", "1.0", "1e400", "nan", "inf", "null", "None", "true", "undefined", "[object Object]", "#2",
    "m#2", "m#", "'; DROP TABLE batches;--", '"}],"x":[{"', "\\", "\\u0000", "%00", "../../x", "{{7*7}}", "$(id)", "<b>&amp;",
    "\x00", "a\x00b", "\x1b[31m", "\x7f", "\x85", "a\r\nb", "USD\n", "\u200b", "\ufeff", "\u202eabc", "\u2028", "\ufffe", "\uffff",
    "\ue000", "\U0010ffff", "𝄞", "👩‍👩‍👧‍👦", "e\u0301", "\u0301", "\u212b", "ﬁ", "ß", "İ", "Ⅷ", "ﷺ" * 60, "Z" + "\u0335" * 90,
    "a" * MAX_MESSAGE_ID, "a" * (MAX_ID + 1), "é" * MAX_TEXT, "a" * (MAX_TEXT + 1), " " * 300 + "a", "a" * 20_000,
]  # fmt: skip
BATCH = 100
numbered = count()


class Field(NamedTuple):
    """A text field: how a message has it, where the log has it, and how it is named where it is rejected."""

    put: Callable[[dict[str, Any], str], None]
    get: Callable[[Event], Any]
    names: tuple[str, ...] = ()  # none: a text that does not fit is left out


def top(name: str, field: str, kind: str, **more: Any) -> Field:
    return Field(lambda message, text: message.update({name: text, "type": kind} | more), _getter(field), (name, field))


def property_of(event: str, name: str, field: str | None = None) -> Field:
    def put(message: dict[str, Any], text: str) -> None:
        message.update(type="track", event=event, properties={"item_id": "film", name: text})

    return Field(put, _getter(field or name), (field or name,))


def context(*path: str, field: str) -> Field:
    def put(message: dict[str, Any], text: str) -> None:
        value: Any = text
        for name in reversed(path):
            value = {name: value}
        message.update(type="page", context=value)

    def get(event: Event) -> Any:
        return None if event.context is None else getattr(event.context, field)

    return Field(put, get)


def _getter(field: str) -> Callable[[Event], Any]:
    return lambda event: getattr(event, field)


def session(message: dict[str, Any], text: str) -> None:
    message.update(type="page", context={"sessionId": text})


IDS = {
    "userId": top("userId", "user_id", "page", anonymousId="device"),
    "anonymousId": top("anonymousId", "anonymous_id", "page"),
    "previousId": top("previousId", "previous_id", "alias"),
    "groupId": top("groupId", "group_id", "group"),
    "item_id": property_of("view", "item_id"),
    "product_id": property_of("Product Viewed", "product_id", "item_id"),
    "request_id": property_of("click", "request_id"),
    "order_id": property_of("purchase", "order_id"),
    "sessionId": Field(session, _getter("session_id"), ("context.sessionId", "session_id")),
}
TEXTS = {
    "query": property_of("search", "query"),
    "channel": property_of("share", "channel"),
    "name": top("name", "name", "page"),
    "os": context("os", "name", field="os"),
    "app": context("app", "name", field="app"),
    "locale": context("locale", field="locale"),
    "city": context("location", "city", field="city"),
    "page": context("page", "path", field="page"),
    "campaign": context("campaign", "name", field="campaign"),
}
CHOICES = {  # few texts are values
    "country": context("location", "country", field="country"),
    "device": context("device", "type", field="device"),
    "orientation": context("screen", "orientation", field="orientation"),
    "timezone": context("timezone", field="local_time"),
    "currency": property_of("purchase", "currency"),
    "timestamp": Field(
        lambda message, text: message.update(type="page", timestamp=text), lambda event: None, ("timestamp",)
    ),
}
REQUIRED = {"previousId", "groupId", "item_id", "product_id", "query"}  # without them there is no such event


@pytest.fixture(scope="module")
def collector(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningCollector]:
    running = RunningCollector(tmp_path_factory.mktemp("collect"))
    yield running
    running.close()


def send(collector: RunningCollector, messages: list[dict[str, Any]]) -> list[tuple[dict[str, Any], Event | None]]:
    """The verdict on each message, and the event that is in the log."""
    found: list[tuple[dict[str, Any], Event | None]] = []
    for first in range(0, len(messages), BATCH):
        batch = messages[first : first + BATCH]
        results = collector.send(*batch)
        positions = [verdict["position"] for verdict in results.values() if verdict["status"] == "accepted"]
        before = min((int(position.partition(":")[2]) for position in positions), default=1) - 1
        logged = {}
        if positions:
            for message in SqliteLogReader(collector.settings.log_folder).read({0: before}):
                (logged[message.message_id],) = decode_events(message.events)
        for number, message in enumerate(batch):
            name = message["messageId"] or f"[{number}]"  # a message without an id is named by its place
            found.append((results[name], logged.get(name)))
    return found


def send_each(collector: RunningCollector, field: Field, texts: list[str]) -> list[tuple[dict[str, Any], Event | None]]:
    """As `send`, for a message with each text in a field."""
    messages = []
    for text in texts:
        messages.append({"messageId": f"text-{next(numbered)}", "userId": "ann"})
        field.put(messages[-1], text)
    return send(collector, messages)


def check(collector: RunningCollector, texts: list[str]) -> None:
    """The claims of this file, for every field."""
    for name, field in IDS.items():
        for text, (verdict, event) in zip(texts, send_each(collector, field, texts), strict=True):
            spelled = canonical_id(text, False)
            is_valid = name not in REQUIRED if text == "" else not id_problem(spelled) and len(spelled) <= MAX_ID
            if is_valid and len(text) <= MAX_TEXT:
                assert verdict["status"] == "accepted", (name, text, verdict)
            if verdict["status"] == "accepted":
                assert is_valid, (name, text)
                assert field.get(event) == (spelled or None), (name, text)
            else:
                assert verdict["field"] in field.names, (name, text, verdict)
    for name, field in TEXTS.items():
        for text, (verdict, event) in zip(texts, send_each(collector, field, texts), strict=True):
            if verdict["status"] == "accepted":
                fits = len(text) <= MAX_TEXT
                assert fits or not field.names, (name, text)
                assert field.get(event) == ((text or None) if fits else None), (name, text)
            else:
                assert text == "" or len(text) > MAX_TEXT, (name, text, verdict)
                assert verdict["field"] in field.names, (name, text, verdict)
    for name, field in CHOICES.items():
        for text, (verdict, _) in zip(texts, send_each(collector, field, texts), strict=True):
            assert verdict["status"] == "accepted" or verdict["field"] in field.names, (name, text, verdict)
    check_traits(collector, texts)
    check_names_of_events(collector, texts)
    check_message_ids(collector, texts)


def check_traits(collector: RunningCollector, texts: list[str]) -> None:
    field = Field(
        lambda message, text: message.update(type="identify", traits={"a": text, text + "b": 1}), _getter("traits")
    )
    for text, (verdict, event) in zip(texts, send_each(collector, field, texts), strict=True):
        assert verdict["status"] == "accepted" or verdict["reason"] == "size", (text, verdict)
        assert event is None or field.get(event) == {"a": text, text + "b": 1}


def check_names_of_events(collector: RunningCollector, texts: list[str]) -> None:
    field = Field(lambda message, text: message.update(type="track", event=text), _getter("name"), ("event",))
    for text, (verdict, event) in zip(texts, send_each(collector, field, texts), strict=True):
        if text:
            assert verdict["status"] == "accepted", (text, verdict)
            assert field.get(event) == text[:MAX_TEXT]
        else:
            assert verdict["field"] == "event"


def check_message_ids(collector: RunningCollector, texts: list[str]) -> None:
    messages = [{"messageId": text, "userId": "ann", "type": "page"} for text in texts]
    for text, (verdict, event) in zip(texts, send(collector, messages), strict=True):
        if verdict["status"] == "accepted":
            assert event is not None
            assert event.event_id == text
        else:
            assert verdict["field"] == "messageId", (text, verdict)


def test_hostile_texts_in_every_field(collector: RunningCollector) -> None:
    check(collector, OWN)


@pytest.mark.slow
def test_the_big_list_of_naughty_strings_in_every_field(collector: RunningCollector, real_data: Path) -> None:
    """https://github.com/minimaxir/big-list-of-naughty-strings"""
    file = real_data / "hostile" / "naughty-strings.json"
    if not file.is_file():
        pytest.skip(f"no strings at {file}")
    texts = json.loads(file.read_text(encoding="utf-8"))
    assert len(texts) > 500
    check(collector, sorted({*texts} - {*OWN}))
