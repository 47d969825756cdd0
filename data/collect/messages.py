"""Read messages in Segment's wire format, and turn each into events of our schema or a rejection that names the field.

Format: https://segment.com/docs/connections/spec/common/. SDKs of Segment, RudderStack and others send it.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from functools import lru_cache
from hashlib import blake2b
from typing import Any, Literal, NamedTuple, get_args
from zoneinfo import ZoneInfo

import msgspec
from msgspec import Struct

from data.collect.mapping import Rule
from data.collect.schema import (
    EVENT_TYPES,
    MAX_TEXT,
    PURPOSES,
    Alias,
    Context,
    Custom,
    Event,
    Group,
    Identify,
    Item,
    Page,
)
from data.columns import MINUTE
from data.ids import canonical_id, id_problem
from data.times import from_iso

MAX_EVENT_BYTES = 32 * 1024  # as Segment's API
MAX_MESSAGE_ID = 190  # characters
MAX_PARTS = 200  # events in one message
MISSING = re.compile(r"Object missing required field `(.+)`")
PART = re.compile(r"#[0-9]+$")  # ends the ids of a message's further events
FUTURE_US = 5 * MINUTE  # how far in the future an event may be, once the sender's clock is corrected
SKEW_US = MINUTE  # from which difference on a sender's clock is corrected
EARLIEST_US = 0  # 1970
PHONES, TABLETS = {"ios", "android", "mobile", "phone", "smartphone"}, {"tablet", "ipad"}
DEVICES = {"desktop", "tv"}
EMPTY_CONTEXT = Context()
# Of all types, besides those of every event.
ID_FIELDS = sorted({field for cls in EVENT_TYPES.values() for field in cls.__struct_fields__ if field.endswith("_id")}
                   - set(Event.__struct_fields__))  # fmt: skip
MAX_ID_TEXT = 1_000  # characters with what is trimmed; longer ids and contexts are not worth remembering
MAX_KNOWN_CONTEXT = 4 * 1024
MAX_EXACT_FLOAT = 2**53  # from it on, floats of different integers are equal


class Reason(StrEnum):
    """Why a message was rejected."""

    SCHEMA = "schema"  # a field is missing or has a wrong value
    SIZE = "size"  # it is too large
    TIME = "time"  # it is from the future, or its time cannot be read
    CONFLICT = "conflict"  # its message id names another event


class Rejection(Exception):
    """A message that is not accepted: why, in which field, and what to do."""

    def __init__(self, reason: Reason, field: str | None, message: str) -> None:
        super().__init__(message)
        self.reason, self.field, self.message = reason, field, message


Kind = Literal["track", "identify", "page", "screen", "group", "alias", "item"]
ITEM: Kind = "item"  # ours, of the catalog; not in Segment's API
KINDS: tuple[Kind, ...] = tuple(kind for kind in get_args(Kind) if kind != ITEM)
ITEM_FIELDS = [name for name in Item.__struct_fields__ if name not in (*Event.__struct_fields__, "traits")]


class Message(Struct, rename="camel", omit_defaults=True, kw_only=True):
    """One message as SDKs send it. Unknown fields are dropped."""

    type: Kind | None = None
    message_id: str | None = None
    user_id: str | int | float | None = None
    anonymous_id: str | int | float | None = None
    event: str | None = None
    name: str | None = None
    previous_id: str | int | float | None = None
    group_id: str | int | float | None = None
    properties: dict[str, Any] | None = None
    traits: dict[str, Any] | None = None
    context: msgspec.Raw = msgspec.Raw(b"null")
    timestamp: str | None = None
    original_timestamp: str | None = None  # RudderStack's name of it
    sent_at: str | None = None


class _OnlyId(Struct, rename="camel"):
    message_id: str


class Arrival(NamedTuple):
    """When and how a message came."""

    known_us: int
    sent_us: int | None = None  # by the sender's clock
    kind: Kind | None = None  # of a message that does not say it
    context: bytes = b"null"  # of a message that has none
    message_id: str | None = None  # likewise; None: a new one


@dataclass(frozen=True)
class Reading:
    """How messages are read.

    Attributes:
        rules: name of an event -> how it becomes one of our types.
        default_purposes: what an event may serve if it does not say which purposes the person allowed.
        reject_unknown: whether a name or property that no rule uses is an error; if not, it is dropped.
    """

    rules: Mapping[str, Rule]
    default_purposes: tuple[str, ...] = ()
    reject_unknown: bool = False


DECODER = msgspec.json.Decoder(Message)


def read_message(raw: bytes | memoryview, arrival: Arrival) -> Message:
    """Parse one message; it gets an id if it has none. Raises Rejection."""
    if len(raw) > MAX_EVENT_BYTES:
        raise Rejection(Reason.SIZE, None, f"the event has {len(raw)} bytes; expected at most {MAX_EVENT_BYTES}")
    try:
        message = DECODER.decode(raw)
    except msgspec.ValidationError as error:
        raise Rejection(Reason.SCHEMA, *_fault(error)) from None
    except (msgspec.DecodeError, RecursionError, UnicodeError) as error:
        raise Rejection(Reason.SCHEMA, None, f"not JSON: {error}") from None
    if message.type == ITEM and arrival.kind != ITEM:
        raise Rejection(Reason.SCHEMA, "type", "items are sent to /v1/items")
    message.type = message.type or arrival.kind
    if message.type is None:
        raise Rejection(Reason.SCHEMA, "type", f"expected one of {', '.join(KINDS)}")
    if message.message_id is None:
        message.message_id = arrival.message_id or secrets.token_hex(16)
    elif not message.message_id.strip() or len(message.message_id) > MAX_MESSAGE_ID or PART.search(message.message_id):
        problem = f"expected 1 to {MAX_MESSAGE_ID} characters that do not end with # and a number"
        raise Rejection(Reason.SCHEMA, "messageId", problem)
    return message


def find_message_id(raw: bytes) -> str | None:
    """The id of a message that cannot be read otherwise; None if it has none."""
    try:
        return msgspec.json.decode(raw, type=_OnlyId).message_id
    except (msgspec.MsgspecError, RecursionError, UnicodeError):
        return None


def fingerprint(message: Message) -> bytes:
    """8 bytes that are equal for a message that its sender repeats, whenever it sends it."""
    sent = msgspec.json.encode(msgspec.structs.replace(message, sent_at=None))
    return blake2b(sent, digest_size=8).digest()


def to_events(message: Message, arrival: Arrival, reading: Reading) -> list[Event]:
    """The events of a message, one per item. Raises Rejection: one of them is invalid."""
    moment = event_time(message, arrival)
    user_id, anonymous_id = _id("userId", message.user_id), _id("anonymousId", message.anonymous_id)
    if user_id is None and anonymous_id is None and message.type != ITEM:
        raise Rejection(Reason.SCHEMA, "userId", "expected userId, anonymousId or both")
    context = bytes(message.context)
    found = read_context(arrival.context if context == b"null" else context)
    common = {
        "event_time": moment,
        "user_id": user_id,
        "anonymous_id": anonymous_id,
        "session_id": found.session_id,
        "purposes": reading.default_purposes if found.purposes is None else found.purposes,
        "context": found.at(moment),
    }
    fields = _fields(message, found, reading)
    if not fields:
        raise Rejection(Reason.SCHEMA, "properties", "the event lists no item")
    if len(fields) > MAX_PARTS:
        raise Rejection(Reason.SIZE, "properties", f"the event lists {len(fields)} items; expected at most {MAX_PARTS}")
    events = []
    for number, (cls, own) in enumerate(fields, 1):
        event_id = message.message_id if number == 1 else f"{message.message_id}#{number}"
        events.append(_convert(cls, {**common, **own, "event_id": event_id}))
    return events


def event_time(message: Message, arrival: Arrival) -> int:
    """When it happened: the message's time, corrected if the sender's clock is off by more than a minute.

    Raises:
        Rejection: the time cannot be read, or is in the future.
    """
    text = message.original_timestamp if message.timestamp is None else message.timestamp
    if text is None:
        return arrival.known_us
    try:
        moment = from_iso(text)
    except ValueError:
        raise Rejection(Reason.TIME, "timestamp", f"{text[:40]!r} is no ISO 8601 time") from None
    skew = 0 if arrival.sent_us is None else arrival.known_us - arrival.sent_us
    if abs(skew) > SKEW_US:
        moment += skew
    if moment > arrival.known_us + FUTURE_US:
        raise Rejection(Reason.TIME, "timestamp", f"{text[:40]} is in the future")
    if moment < EARLIEST_US:
        raise Rejection(Reason.TIME, "timestamp", f"{text[:40]} is before 1970")
    return moment


class MessageContext(NamedTuple):
    """What a message's `context` says."""

    context: Context
    zone: ZoneInfo | None
    session_id: str | None
    purposes: tuple[str, ...] | None  # that the person allowed; None: it does not say
    traits: Mapping[str, Any]  # RudderStack's SDK for Python sends those of an identify call here

    def at(self, moment_us: int) -> Context | None:
        """The context with the local time of a moment; None if nothing is known."""
        return _with_local_time(self.context, self.zone, moment_us // MINUTE)


@lru_cache(4096)
def _with_local_time(context: Context, zone: ZoneInfo | None, minute: int) -> Context | None:
    """The context with the local time of a minute since 1970, where the zone is known; None if nothing is known."""
    if zone is None:
        return None if context == EMPTY_CONTEXT else context
    try:
        local = datetime.fromtimestamp(minute * 60, zone)
    except (ValueError, OverflowError):
        return context
    return msgspec.structs.replace(context, local_time=f"{local.hour:02d}:{local.minute:02d}")


def read_context(raw: bytes) -> MessageContext:
    """Our context from Segment's. What does not fit the schema is left out: it is no reason to lose an event.

    https://segment.com/docs/connections/spec/common/#context and, for `consent`,
    https://segment.com/docs/privacy/consent-management/consent-in-segment-connections/. Raises Rejection: it is no object.
    """
    return _known_context(raw) if len(raw) <= MAX_KNOWN_CONTEXT else _parse_context(raw)


def _parse_context(raw: bytes) -> MessageContext:
    try:
        context = msgspec.json.decode(raw)
    except (msgspec.MsgspecError, RecursionError, UnicodeError) as error:
        raise Rejection(Reason.SCHEMA, "context", f"cannot be read: {error}") from None
    context = {} if context is None else context
    if not isinstance(context, dict):
        raise Rejection(Reason.SCHEMA, "context", f"expected an object, got {type(context).__name__}")
    device, network, place = _part(context, "device"), _part(context, "network"), _part(context, "location")
    app, preferences = _part(context, "app"), _part(_part(context, "consent"), "categoryPreferences")
    purposes = tuple(purpose for purpose in PURPOSES if preferences.get(purpose) is True)
    read = Context(
        device=_device(device.get("type"), device.get("model")),
        os=_text(_part(context, "os").get("name")),
        app=_text(" ".join(part for part in (_text(app.get("name")), _text(app.get("version"))) if part)),
        network=next((kind for kind in ("wifi", "cellular") if network.get(kind) is True), None),
        orientation=_choice(_part(context, "screen").get("orientation"), ("portrait", "landscape")),
        locale=_text(context.get("locale")),
        country=_country(place.get("country")),
        city=_text(place.get("city")),
        page=_text(_part(context, "page").get("path")),
        campaign=_text(_part(context, "campaign").get("name")),
    )
    session_id = _id("context.sessionId", context.get("sessionId"))
    allowed = purposes if preferences else None
    return MessageContext(read, _zone(context.get("timezone")), session_id, allowed, _part(context, "traits"))


_known_context = lru_cache(4096)(_parse_context)  # a client's messages have the same context


def _fields(message: Message, context: MessageContext, reading: Reading) -> list[tuple[type[Event], dict[str, Any]]]:
    """The class and the own fields of each event of a message."""
    properties = message.properties or {}
    match message.type:
        case "page" | "screen":
            return [(Page, {"name": message.name or _text(properties.get("name"))})]
        case "identify":
            return [(Identify, {"traits": _scalars(context.traits if message.traits is None else message.traits)})]
        case "alias":
            return [(Alias, {"previous_id": _id("previousId", message.previous_id)})]
        case "group":
            return [(Group, {"group_id": _id("groupId", message.group_id), "traits": _scalars(message.traits)})]
        case "item":
            own = {name: value for name in ITEM_FIELDS if (value := properties.get(name)) is not None}
            return [(Item, _with_ids(own) | {"traits": _scalars(message.traits), "purposes": PURPOSES})]
    if not message.event:
        raise Rejection(Reason.SCHEMA, "event", "a track message needs the name of its event")
    rule = reading.rules.get(message.event)
    if rule is None:
        if reading.reject_unknown:
            raise Rejection(Reason.SCHEMA, "event", f"the mapping has no event {message.event[:100]!r}")
        return [(Custom, {"name": message.event[:MAX_TEXT]})]
    if reading.reject_unknown and (unknown := rule.unknown(properties)):
        raise Rejection(Reason.SCHEMA, f"properties.{unknown[:100]}", f"{message.event} has no such property")
    return [(EVENT_TYPES[rule.type], _with_ids(fields)) for fields in rule.fields(properties)]


def _convert(cls: type[Event], values: dict[str, Any]) -> Event:
    try:
        return msgspec.convert(values, cls, strict=False)
    except msgspec.ValidationError as error:
        raise Rejection(Reason.SCHEMA, *_fault(error)) from None


def _fault(error: msgspec.ValidationError) -> tuple[str | None, str]:
    """The field that is wrong, and what is wrong with it."""
    problem, _, path = str(error).partition(" - at ")
    field = path.strip("`").removeprefix("$").removeprefix(".")
    if missing := MISSING.fullmatch(problem):
        return ".".join(filter(None, (field, missing[1]))), "is missing"
    return field or None, problem


def _with_ids(fields: dict[str, Any]) -> dict[str, Any]:
    for name in ID_FIELDS:
        if name in fields:
            fields[name] = _id(name, fields[name])
    return fields


def _id(field: str, value: Any) -> str | None:
    """An id in the spelling of data.ids; None for none. Raises Rejection."""
    if value is None or value == "":
        return None
    if not isinstance(value, str):
        value = _text_of_number(field, value)
    elif len(value) > MAX_ID_TEXT:
        raise Rejection(Reason.SCHEMA, field, f"the id has {len(value)} characters")
    text, problem = _canonical(value)
    if problem:
        raise Rejection(Reason.SCHEMA, field, f"the id {problem}")
    return text


def _text_of_number(field: str, value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise Rejection(Reason.SCHEMA, field, f"expected a text or a number, got {type(value).__name__}")
    if isinstance(value, float) and not value.is_integer():
        raise Rejection(Reason.SCHEMA, field, f"{value!r} is a number with a fraction")
    if isinstance(value, float) and abs(value) >= MAX_EXACT_FLOAT:
        raise Rejection(Reason.SCHEMA, field, f"{value!r} is a number whose last digits are lost; send ids as text")
    return str(int(value))


@lru_cache(65_536)  # the same people and items come again and again
def _canonical(text: str) -> tuple[str, str | None]:
    """An id in its one spelling, and what is wrong with it."""
    text = canonical_id(text, False)
    return text, id_problem(text)


def _scalars(traits: Mapping[str, Any] | None) -> dict[str, Any]:
    """The traits that are one value; lists and objects are dropped."""
    return {name: value for name, value in (traits or {}).items() if isinstance(value, str | int | float | bool | None)}


def _part(context: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    part = context.get(name)
    return part if isinstance(part, dict) else {}


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value and len(value) <= MAX_TEXT else None


def _choice(value: Any, choices: tuple[str, ...]) -> Any:
    return value.lower() if isinstance(value, str) and value.lower() in choices else None


def _device(kind: Any, model: Any) -> Any:
    name = kind.lower() if isinstance(kind, str) else ""
    if name in TABLETS or (isinstance(model, str) and "ipad" in model.lower()):
        return "tablet"
    return "phone" if name in PHONES else name if name in DEVICES else "other" if name else None


def _country(value: Any) -> str | None:
    return value.upper() if isinstance(value, str) and len(value) == 2 and value.isascii() and value.isalpha() else None


def _zone(name: Any) -> ZoneInfo | None:
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, TypeError, OSError):  # no such zone
        return None
