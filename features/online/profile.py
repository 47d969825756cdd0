"""One user's profile: how changes are joined, and what of it a moment may see.

Profiles form a join-semilattice: `join_profiles` is commutative, associative and idempotent. So all stores end with the
same profile, in whatever order events arrive, however often and however late. (Shapiro et al. 2011, "Conflict-free
replicated data types": events are a bounded grow-only set, traits and consent last-writer-wins registers.)
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from operator import add
from typing import Any, NamedTuple

from data.columns import MICROSECONDS
from data.ids import MAX_LENGTH
from features.online.errors import ProfileError

EARLIEST_US = 31_536_000 * MICROSECONDS  # 1971 and 2100, the bounds of `data.time_columns`
LATEST_US = 4_102_444_800 * MICROSECONDS
PERSONALIZATION = "personalization"  # the consent purpose that personalized recommendations need


class Event(NamedTuple):
    """One event of a history. The tuples compare in the total order of events: (event_time, event_id)."""

    time_us: int
    event_id: str
    known_us: int  # when the platform learned of it
    item_id: str
    event_type: str


class EventColumns(Sequence[Event]):
    """Events by column, as a record stores them: most readers need two of the five. Equal to a tuple of its events.

    Args:
        lags: microseconds from event time to known time.
        type_names: the event types that occur.
        types: the position in `type_names` of each event's type.
    """

    def __init__(
        self,
        times: list[int],
        ids: list[str],
        lags: list[int],
        items: list[str],
        type_names: list[str],
        types: list[int],
    ) -> None:
        self.times, self.ids, self.items = times, ids, items
        self._lags, self._type_names, self._types = lags, type_names, types

    @cached_property
    def events(self) -> tuple[Event, ...]:
        """The events as tuples."""
        known, types = map(add, self.times, self._lags), [self._type_names[kind] for kind in self._types]
        columns = zip(self.times, self.ids, known, self.items, types, strict=True)
        return tuple(map(Event._make, columns))

    def __len__(self) -> int:
        return len(self.times)

    def __getitem__(self, index):  # an Event, or a tuple of them for a slice
        return self.events[index]

    def __iter__(self) -> Iterator[Event]:
        return iter(self.events)

    def __eq__(self, other: object) -> bool:
        return self.events == (other.events if isinstance(other, EventColumns) else other)

    __hash__ = None  # type: ignore[assignment]


class TimedValue(NamedTuple):
    """The latest value of one trait or consent purpose. Of two, the one with the greater (time_us, event_id) wins."""

    time_us: int
    event_id: str
    known_us: int
    value: Any  # of a trait: text, a number, a flag, or None if it was removed; of consent: a flag


@dataclass(frozen=True)
class Profile:
    """What is stored of one user, and also a change to it, since both are joined in the same way.

    Attributes:
        events: the newest in total order, each (time_us, event_id) once, including repeats of items.
        traits, consent: column or purpose -> latest value.
        feature_time_us: when the platform last learned anything of the user; the time-to-live starts here.
        truncated: whether older events were dropped to limit the size, or lost with a damaged record.
    """

    user_id: str
    events: Sequence[Event] = ()
    traits: Mapping[str, TimedValue] = field(default_factory=dict)
    consent: Mapping[str, TimedValue] = field(default_factory=dict)
    feature_time_us: int = 0
    truncated: bool = False


def make_profile(
    user_id: str,
    events: Iterable[Event] = (),
    traits: Mapping[str, TimedValue] | None = None,
    consent: Mapping[str, TimedValue] | None = None,
) -> Profile:
    """Create a validated profile. Raises ProfileError, naming the field and what was expected."""
    check_text("user_id", user_id)
    events, traits, consent = list(events), dict(traits or {}), dict(consent or {})
    for event in events:
        _check_event(event)
    for kind, values in (("traits", traits), ("consent", consent)):
        for name, value in values.items():
            _check_value(kind, name, value)
    known = [event.known_us for event in events]
    known += [value.known_us for value in (*traits.values(), *consent.values())]
    return Profile(user_id, _union(events), traits, consent, max(known, default=0))


def join_profiles(one: Profile, other: Profile, max_events: int) -> Profile:
    """Combine two profiles of one user, keeping the newest `max_events` events.

    A dropped event is older than `max_events` others, which are never removed. So it would be dropped in any order of
    arrival, and no later join can miss it.
    """
    if one.user_id != other.user_id:
        raise ValueError(f"profiles of two users, {one.user_id!r} and {other.user_id!r}, do not join")
    events = _union([*one.events, *other.events]) if one.events and other.events else one.events or other.events
    return Profile(
        one.user_id,
        events[-max_events:],
        _latest(one.traits, other.traits, json.dumps),
        _latest(one.consent, other.consent, lambda granted: not granted),  # at a full tie a refusal wins
        max(one.feature_time_us, other.feature_time_us),
        one.truncated or other.truncated or len(events) > max_events,
    )


def _union(events: list[Event]) -> tuple[Event, ...]:
    """Events in total order. Of those with equal time and id the smallest stays, as in `data.cleaning`."""
    kept: dict[tuple[int, str], Event] = {}
    for event in sorted(events):
        kept.setdefault(event[:2], event)
    return tuple(kept.values())


def _latest(one: Mapping[str, TimedValue], other: Mapping[str, TimedValue], key: Callable) -> Mapping[str, TimedValue]:
    if not one or not other:
        return one or other

    def rank(value: TimedValue) -> tuple:
        # The earliest `known_us` wins among equals: a repeated arrival teaches nothing new.
        return value.time_us, value.event_id, key(value.value), -value.known_us

    both = {name: max(one[name], other[name], key=rank) for name in one.keys() & other.keys()}
    return {**one, **other, **both}


def check_text(name: str, value: object) -> None:
    """Raise a ProfileError unless the value is text that is not blank and not too long."""
    if not isinstance(value, str) or not value.strip():
        raise ProfileError(name, f"expected text that is not blank, got {value!r}"[:120])
    if len(value) > MAX_LENGTH:
        raise ProfileError(name, f"expected at most {MAX_LENGTH} characters, got {len(value)}")


def _check_times(time_us: object, known_us: object) -> None:
    for name, value in (("event_time", time_us), ("known_time", known_us)):
        if not isinstance(value, int) or isinstance(value, bool):
            raise ProfileError(name, f"expected whole microseconds, got {value!r}"[:120])
        if not EARLIEST_US <= value < LATEST_US:
            raise ProfileError(name, f"{value} is out of range (1971 to 2100, in microseconds)")
    if known_us < time_us:  # type: ignore[operator]
        raise ProfileError("known_time", f"{known_us} is before event_time {time_us}")


def _check_event(event: Event) -> None:
    for name in ("event_id", "item_id", "event_type"):
        check_text(name, getattr(event, name))
    _check_times(event.time_us, event.known_us)


def _check_value(kind: str, name: str, timed: TimedValue) -> None:
    check_text(kind, name)
    check_text("event_id", timed.event_id)
    _check_times(timed.time_us, timed.known_us)
    value = timed.value
    if kind == "consent" and not isinstance(value, bool):
        raise ProfileError(f"consent.{name}", f"expected true or false, got {value!r}"[:120])
    if not isinstance(value, str | int | float | None) or (isinstance(value, float) and not math.isfinite(value)):
        raise ProfileError(f"{kind}.{name}", f"expected text, a finite number, a flag or null, got {value!r}"[:120])
    if isinstance(value, int) and not -(2**63) <= value < 2**63:  # orjson reads larger integers as floats
        raise ProfileError(f"{kind}.{name}", f"expected a whole number of at most 64 bits, got {value!r}"[:120])


def visible_events(profile: Profile, as_of_us: int, repeats: str) -> list[Event]:
    """The history at a moment: events strictly before it and known by then, in total order, repeats resolved.

    `features.encode.resolve_history` does the same for the history in a request. There events have no ids, so it orders
    equal times by item; here they are ordered as in training.

    Args:
        repeats: `first`, `last` or `all`: `ingest.repeats` at the time of training.
    """
    if repeats not in ("first", "last", "all"):
        raise ValueError(f"repeats is {repeats!r}; expected first, last or all")
    visible: Sequence[Event] = profile.events
    if visible and (visible[-1].time_us >= as_of_us or profile.feature_time_us > as_of_us):
        visible = [event for event in visible if event.time_us < as_of_us and event.known_us <= as_of_us]
    # An id with two times counts at the first, as in `data.cleaning`.
    visible = _first_by_key([event.event_id for event in visible], visible)
    if repeats == "last":
        backwards = visible[::-1]
        return list(_first_by_key([event.item_id for event in backwards], backwards)[::-1])
    if repeats == "first":
        visible = _first_by_key([event.item_id for event in visible], visible)
    return list(visible)


def visible_items(profile: Profile, as_of_us: int, repeats: str) -> tuple[list[str], list[int]]:
    """Items and times of `visible_events`: the input of a model."""
    events = profile.events
    if isinstance(events, EventColumns) and events.times:
        items, times = events.items, events.times
        all_known = times[-1] < as_of_us and profile.feature_time_us <= as_of_us
        if all_known and len(set(events.ids)) == len(times) and (repeats == "all" or len(set(items)) == len(times)):
            return items, times  # the usual case creates no Event, since every request waits for this
    visible = visible_events(profile, as_of_us, repeats)
    return [event.item_id for event in visible], [event.time_us for event in visible]


def _first_by_key(keys: Sequence[str], events: Sequence[Event]) -> Sequence[Event]:
    """Drop events whose key occurred before."""
    if len(set(keys)) == len(keys):  # the usual case, checked first since every request waits for this
        return events
    kept: dict[str, Event] = {}
    for key, event in zip(keys, events, strict=True):
        kept.setdefault(key, event)
    return list(kept.values())


def visible_traits(profile: Profile, as_of_us: int) -> dict[str, object]:
    """Column -> value of the traits known at a moment, for `features.encode.encode_values`.

    Only the latest value is stored: a trait that changed after the moment is unknown at the moment.
    """
    return {name: value for name, value in _known_values(profile.traits, as_of_us).items() if value is not None}


def visible_consent(profile: Profile, as_of_us: int) -> dict[str, bool]:
    """Purpose -> whether the user agreed, for the purposes that the user was asked about by then."""
    return _known_values(profile.consent, as_of_us)


def _known_values(values: Mapping[str, TimedValue], as_of_us: int) -> dict:
    return {
        name: value.value for name, value in values.items() if value.time_us <= as_of_us and value.known_us <= as_of_us
    }
