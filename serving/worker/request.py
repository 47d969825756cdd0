"""Check what a client sends, field by field."""

from __future__ import annotations

from dataclasses import dataclass, field

from data.times import from_iso

MAX_K = 1000
MAX_HISTORY = 10_000
MAX_VALUES = 100  # of one filter
MAX_TEXT = 256
DEFAULT_K = 10
FIELDS = ("user_id", "history", "k", "time", "context", "exclude", "filters", "request_id")
EVENT_FIELDS = ("item_id", "event_time")


class RequestError(ValueError):
    """A request cannot be answered; `field` names what is wrong with it."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field, self.message = field[:100], message


@dataclass
class Request:
    """One checked request.

    Attributes:
        history: (item_id, microseconds), as the client sent it.
        has_history: whether the client sent a history, be it empty.
        filters: item attribute -> allowed values.
    """

    user_id: str | None
    history: list[tuple[str, int]]
    has_history: bool
    k: int
    time_us: int
    context: dict
    request_id: str | None
    exclude: list[str] = field(default_factory=list)
    filters: dict[str, list[str]] = field(default_factory=dict)


def parse(body: object, now_us: int) -> Request:
    """Check one parsed JSON body.

    Args:
        now_us: the time of a request that gives none.

    Raises:
        RequestError: names the field and what was expected.
    """
    if not isinstance(body, dict):
        raise RequestError("body", f"expected a JSON object, got {_kind(body)}")
    for name in body:
        if name not in FIELDS:
            raise RequestError(str(name), f"unknown field; known are {', '.join(FIELDS)}")
    history, time = body.get("history"), body.get("time")
    return Request(
        user_id=_text(body, "user_id"),
        history=[] if history is None else _history(history),
        has_history=history is not None,
        k=_k(body.get("k", DEFAULT_K)),
        time_us=now_us if time is None else to_microseconds(time, "time"),
        context=_context(body.get("context")),
        request_id=_text(body, "request_id"),
        exclude=_exclude(body.get("exclude")),
        filters=_filters(body.get("filters")),
    )


def to_microseconds(value: object, field: str) -> int:
    """Convert ISO 8601 text to microseconds since 1970. Text without an offset is UTC.

    Raises:
        RequestError: it is not ISO 8601 text.
    """
    if not isinstance(value, str):
        raise RequestError(field, f"expected an ISO 8601 time, got {_kind(value)}")
    try:
        return from_iso(value)
    except ValueError:
        raise RequestError(field, f"{value[:40]!r} is not an ISO 8601 time") from None


def _kind(value: object) -> str:
    names = {dict: "an object", list: "a list", str: "text", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a number")


def _text(body: dict, field: str) -> str | None:
    value = body.get(field)
    if value is not None and not isinstance(value, str):
        raise RequestError(field, f"expected text or null, got {_kind(value)}")
    if value is not None and len(value) > MAX_TEXT:
        raise RequestError(field, f"expected at most {MAX_TEXT} characters, got {len(value)}")
    return value


def _k(value: object) -> int:
    if isinstance(value, float) and value.is_integer():  # JSON Schema counts 10.0 as an integer too
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= MAX_K:
        shown = value if isinstance(value, int | float) and not isinstance(value, bool) else _kind(value)
        raise RequestError("k", f"expected a whole number from 1 to {MAX_K}, got {str(shown)[:40]}")
    return value


def _history(value: object) -> list[tuple[str, int]]:
    if not isinstance(value, list):
        raise RequestError("history", f"expected a list or null, got {_kind(value)}")
    if len(value) > MAX_HISTORY:
        raise RequestError("history", f"expected at most {MAX_HISTORY} events, got {len(value)}")
    return [_event(event, f"history[{position}]") for position, event in enumerate(value)]


def _event(event: object, field: str) -> tuple[str, int]:
    if not isinstance(event, dict):
        raise RequestError(field, f"expected an object with item_id and event_time, got {_kind(event)}")
    item = _required(event, "item_id", field)
    if not isinstance(item, str):
        raise RequestError(f"{field}.item_id", f"expected text, got {_kind(item)}")
    return item, to_microseconds(_required(event, "event_time", field), f"{field}.event_time")


def _required(event: dict, name: str, field: str) -> object:
    if name not in event:
        unknown = [str(other) for other in event if other not in EVENT_FIELDS]
        hint = f"; unknown field {', '.join(unknown)[:60]}" if unknown else ""
        raise RequestError(f"{field}.{name}", f"missing{hint}")
    return event[name]


def _context(value: object) -> dict:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise RequestError("context", f"expected an object or null, got {_kind(value)}")
    for name, entry in value.items():
        if isinstance(entry, dict | list):
            raise RequestError(f"context.{name}", f"expected text or a number, got {_kind(entry)}")
    return value


def _filters(value: object) -> dict[str, list[str]]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise RequestError("filters", f"expected an object or null, got {_kind(value)}")
    return {str(name): _filter_values(values, f"filters.{name}") for name, values in value.items()}


def _filter_values(value: object, field: str) -> list[str]:
    values = [value] if isinstance(value, str) else value
    if not isinstance(values, list) or not values or not all(isinstance(one, str) for one in values):
        raise RequestError(field, "expected text or a list of texts")
    if len(values) > MAX_VALUES:
        raise RequestError(field, f"expected at most {MAX_VALUES} values, got {len(values)}")
    return values


def _exclude(value: object) -> list[str]:
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise RequestError("exclude", "expected a list of item ids (text) or null")
    return value
