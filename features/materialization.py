"""Build profiles and item trends for the online store, from a dataset's tables or from JSON lines."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from itertools import islice
from typing import Any, TextIO

import numpy as np
import pandas as pd

from config import params
from config.command import UserError
from data.columns import DEFAULT_EVENT_TYPE, EVENT_ID, EVENT_TIME, EVENT_TYPE, ITEM, KNOWN_TIME, USER, VALUE, event_id
from data.consent import CLOCK_TOLERANCE_US, Answer
from data.ids import canonical_id, id_problem
from data.tables import microseconds, trait_columns
from data.times import from_iso, now_us
from features.feature_files import Features
from features.online.errors import ProfileError
from features.online.profile import Event, Profile, TimedValue, check_text, make_profile
from features.online.records import ItemTrends
from features.online.store import ProfileStore
from features.trends import last_refresh

TRAITS, CONSENT = "traits", "consent"
SOURCE, EXPIRES = "source", "expires"  # of consent: who collected it, and when a yes ends
LINE_FIELDS = (USER, EVENT_TIME, KNOWN_TIME, EVENT_ID, ITEM, EVENT_TYPE, VALUE, TRAITS, CONSENT, SOURCE, EXPIRES)
NO_EVENT_ID = "-"
DEFAULT_SOURCE = "events"
BATCH_SIZE = 500  # users or lines per write


class MaterializeError(UserError):
    """Something could not be stored. The message says what."""


# From tables


def profiles_at(events: pd.DataFrame, users: pd.DataFrame, until_us: int) -> Iterator[Profile]:
    """Yield one profile per user, of the events that happened before `until_us` and were known by then.

    A user's traits count from the first event on, as in `features.sequences`.
    """
    event_us, known_us = microseconds(events[EVENT_TIME]), microseconds(events[KNOWN_TIME])
    visible = events.assign(event_us=event_us, known_us=known_us)[(event_us < until_us) & (known_us <= until_us)]
    visible = visible.sort_values(USER, kind="stable")
    owners, starts = np.unique(visible[USER].to_numpy(dtype=object), return_index=True)
    columns = ("event_us", EVENT_ID, "known_us", ITEM, EVENT_TYPE)
    rows = [Event(*row) for row in zip(*(visible[name].tolist() for name in columns), strict=True)]
    traits = _user_traits(users)
    for user, begin, end in zip(owners, starts, np.append(starts, len(rows))[1:], strict=True):
        own = rows[begin:end]
        first, first_known_us = min(own), min(event.known_us for event in own)
        values = {
            name: TimedValue(first.time_us, first.event_id, first_known_us, value)
            for name, value in traits.get(user, {}).items()
        }
        yield make_profile(user, own, values)


def _user_traits(users: pd.DataFrame) -> dict[str, dict[str, object]]:
    """user_id -> column -> value, without nulls."""
    names = trait_columns(users)
    rows = zip(users[USER].tolist(), *(users[name].tolist() for name in names), strict=True)
    return {
        user: {name: value for name, value in zip(names, values, strict=True) if not pd.isna(value)}
        for user, *values in rows
    }


def trends_at(features: Features, until_us: int) -> ItemTrends:
    """Item trends as of the last refresh at or before a moment: what a live platform would know."""
    refresh_us = int(last_refresh(np.int64(until_us), features.description["refresh_minutes"]))
    return ItemTrends.from_log(features.trend_log(), features.vocabulary, features.description["channels"], refresh_us)


def write_profiles(store: ProfileStore, profiles: Iterator[Profile]) -> int:
    """Store profiles in batches. Returns their number."""
    count = 0
    while batch := list(islice(profiles, BATCH_SIZE)):
        store.upsert(batch)
        count += len(batch)
    return count


# From JSON lines


def write_lines(
    store: ProfileStore, lines: TextIO, ingest: params.Ingest, numeric_ids: Collection[str] = ()
) -> list[str]:
    """Store what JSON lines contain, and print `stored N lines` after each batch that is safely stored.

    `numeric_ids` names those of user_id and item_id that are numbers in the dataset; see `data.ids`.
    Returns each invalid line and why; all other lines are stored.
    """
    errors: list[str] = []
    read = 0
    while batch := list(islice(lines, BATCH_SIZE)):
        changes = []
        for number, line in enumerate(batch, start=read + 1):
            try:
                changes += parse_line(line, now_us(), ingest.event_types, ingest.min_value, numeric_ids)
            except ProfileError as error:
                errors.append(f"line {number}: {error}")
        store.upsert(changes)
        read += len(batch)
        print(f"stored {read - len(errors):,} lines", flush=True)
    return errors


def parse_line(
    line: str,
    now_us: int,
    event_types: Collection[str] | None,
    min_value: float | None,
    numeric_ids: Collection[str] = (),
) -> list[Profile]:
    """Parse one JSON line about one user: an event, traits, or consent. `now_us` is the default known time.

    Returns the change to the profile, or nothing if ingest would not keep the event. Raises ProfileError.
    """
    try:
        body = json.loads(line)
    except (ValueError, RecursionError):
        raise ProfileError("line", "is not JSON") from None
    if not isinstance(body, dict):
        raise ProfileError("line", "expected a JSON object")
    for name in body:
        if name not in LINE_FIELDS:
            raise ProfileError(name[:100], f"is not a known field; known are {', '.join(LINE_FIELDS)}")
    for name in (USER, ITEM):
        if isinstance(body.get(name), str):
            body[name] = _parse_id(name, body[name], name in numeric_ids)
    check_text(USER, body.get(USER))
    time_us = parse_time(EVENT_TIME, body.get(EVENT_TIME))
    known_us = now_us if body.get(KNOWN_TIME) is None else parse_time(KNOWN_TIME, body[KNOWN_TIME])
    kinds = [kind for kind in (ITEM, TRAITS, CONSENT) if body.get(kind) is not None]
    if len(kinds) != 1:
        found = " and ".join(kinds) or "none of them"
        raise ProfileError("line", f"expected one of {ITEM}, {TRAITS}, {CONSENT}; got {found}")
    if kinds == [ITEM]:
        return _parse_event(body, time_us, known_us, event_types, min_value)
    if kinds == [CONSENT]:
        return [_parse_consent(body, time_us, now_us)]
    return [_parse_traits(body, time_us, known_us)]


def _parse_id(name: str, text: str, is_numeric: bool) -> str:
    """The id in its one spelling. Raises ProfileError."""
    spelling = canonical_id(text, is_numeric)
    if problem := id_problem(spelling, is_numeric):
        raise ProfileError(name, problem)
    return spelling


def parse_time(field: str, value: object) -> int:
    """Parse ISO 8601 text into microseconds since 1970; without an offset it is UTC. A ProfileError names `field`."""
    if not isinstance(value, str):
        raise ProfileError(field, f"expected an ISO 8601 time, got {value!r}"[:120])
    try:
        return from_iso(value)
    except ValueError:
        raise ProfileError(field, f"{value[:40]!r} is not an ISO 8601 time") from None


def _parse_event(
    body: dict[str, Any], time_us: int, known_us: int, event_types: Collection[str] | None, min_value: float | None
) -> list[Profile]:
    user, item, kind, value = body[USER], body[ITEM], body.get(EVENT_TYPE, DEFAULT_EVENT_TYPE), body.get(VALUE)
    for name, text in ((ITEM, item), (EVENT_TYPE, kind)):
        check_text(name, text)
    if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
        raise ProfileError(VALUE, f"expected a number, got {value!r}"[:120])
    identifier = event_id(user, item, time_us, kind) if body.get(EVENT_ID) is None else body[EVENT_ID]
    profile = make_profile(user, [Event(time_us, identifier, known_us, item, kind)])
    is_right_type = event_types is None or kind in event_types
    is_high = min_value is None or (value is not None and value >= min_value)
    return [profile] if is_right_type and is_high else []


def _parse_traits(body: dict[str, Any], time_us: int, known_us: int) -> Profile:
    """Without an id they get none: `join_profiles` decides between two of the same time."""
    identifier = NO_EVENT_ID if body.get(EVENT_ID) is None else body[EVENT_ID]
    values = {name: TimedValue(time_us, identifier, known_us, value) for name, value in _object(body, TRAITS).items()}
    return make_profile(body[USER], traits=values)


def _parse_consent(body: dict[str, Any], time_us: int, now_us: int) -> Profile:
    """A no is taken whatever its time. A yes from the future is refused: it would outrank each no until then."""
    expires_us = None if body.get(EXPIRES) is None else parse_time(EXPIRES, body[EXPIRES])
    source = DEFAULT_SOURCE if body.get(SOURCE) is None else body[SOURCE]
    answers = {name: Answer(value, time_us, source, expires_us) for name, value in _object(body, CONSENT).items()}
    change = make_profile(body[USER], consent=answers)
    if time_us > now_us + CLOCK_TOLERANCE_US and any(answer.granted for answer in answers.values()):
        raise ProfileError(EVENT_TIME, "is in the future; consent counts from when it is given")
    return change


def _object(body: dict[str, Any], name: str) -> dict[str, Any]:
    if not isinstance(body[name], dict):
        raise ProfileError(name, f"expected an object, got {type(body[name]).__name__}")
    return body[name]
