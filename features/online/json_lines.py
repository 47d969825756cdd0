"""One JSON line states one thing about one user: an event, traits, or consent."""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import Any

from data.columns import EVENT_ID, EVENT_TIME, EVENT_TYPE, ITEM, KNOWN_TIME, USER, VALUE
from data.event_id import event_id
from data.times import from_iso
from features.online.errors import ProfileError
from features.online.profile import Event, Profile, Stated, check_text, make

FIELDS = (USER, EVENT_TIME, KNOWN_TIME, EVENT_ID, ITEM, EVENT_TYPE, VALUE, "traits", "consent")
DEFAULT_TYPE = "interaction"  # as in `data.cleaning`
UNNAMED = "-"


def parse(line: str, now_us: int, event_types: Collection[str] | None, min_value: float | None) -> list[Profile]:
    """What a line adds to a profile: one change, or none where ingest would not have kept the event either.

    Args:
        now_us: when the platform learns of it, unless the line says.
        event_types, min_value: as in `params.Ingest`.

    Raises:
        ProfileError: names the field and what was expected.
    """
    try:
        body = json.loads(line)
    except (ValueError, RecursionError):
        raise ProfileError("line", f"is not JSON: {line.strip()[:60]!r}") from None
    if not isinstance(body, dict):
        raise ProfileError("line", f"expected a JSON object, got {line.strip()[:60]!r}")
    for name in body:
        if name not in FIELDS:
            raise ProfileError(name[:100], f"is not a known field; known are {', '.join(FIELDS)}")
    check_text(USER, body.get(USER))
    time_us = instant(EVENT_TIME, body.get(EVENT_TIME))
    known_us = now_us if body.get(KNOWN_TIME) is None else instant(KNOWN_TIME, body[KNOWN_TIME])
    kinds = [kind for kind in (ITEM, "traits", "consent") if body.get(kind) is not None]
    if len(kinds) != 1:
        raise ProfileError(
            "line", f"states {' and '.join(kinds) or 'nothing'}; expected one of item_id, traits, consent"
        )
    if kinds == [ITEM]:
        return _event(body, time_us, known_us, event_types, min_value)
    return [_statement(body, kinds[0], time_us, known_us)]


def instant(field: str, value: object) -> int:
    """An ISO 8601 text as microseconds since 1970; without an offset it is UTC.

    Raises:
        ProfileError: names `field`.
    """
    if not isinstance(value, str):
        raise ProfileError(field, f"expected an ISO 8601 time, got {value!r}"[:120])
    try:
        return from_iso(value)
    except ValueError:
        raise ProfileError(field, f"{value[:40]!r} is not an ISO 8601 time") from None


def _event(
    body: dict[str, Any], time_us: int, known_us: int, event_types: Collection[str] | None, min_value: float | None
) -> list[Profile]:
    user, item, kind, value = body[USER], body[ITEM], body.get(EVENT_TYPE, DEFAULT_TYPE), body.get(VALUE)
    for name, text in ((ITEM, item), (EVENT_TYPE, kind)):
        check_text(name, text)
    if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
        raise ProfileError(VALUE, f"expected a number, got {value!r}"[:120])
    own_id = event_id(user, item, time_us, kind) if body.get(EVENT_ID) is None else body[EVENT_ID]
    made = make(user, [Event(time_us, own_id, known_us, item, kind)])
    wanted = event_types is None or kind in event_types
    high = min_value is None or (value is not None and value >= min_value)
    return [made] if wanted and high else []


def _statement(body: dict[str, Any], kind: str, time_us: int, known_us: int) -> Profile:
    """Traits or consent. One without an id gets no id of its own: of two at one time `profile.join` takes its pick."""
    words = body[kind]
    if not isinstance(words, dict):
        raise ProfileError(kind, f"expected an object, got {words!r}"[:120])
    own_id = UNNAMED if body.get(EVENT_ID) is None else body[EVENT_ID]
    stated = {name: Stated(time_us, own_id, known_us, value) for name, value in words.items()}
    return make(body[USER], traits=stated if kind == "traits" else None, consent=stated if kind == "consent" else None)
