"""One user's profile: how changes are joined, and what of it a moment may see.

Profiles form a join-semilattice: `join_profiles` is commutative, associative and idempotent. So all stores end with the
same profile, in whatever order events arrive, however often and however late. (Shapiro et al. 2011, "Conflict-free
replicated data types": events are a bounded grow-only set, traits last-writer-wins registers.) Consent is stored apart:
see `data.consent`.
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
from data.consent import Answer, ConsentRecord, merge
from data.ids import MAX_LENGTH
from features.online.errors import ProfileError

EARLIEST_US = 31_536_000 * MICROSECONDS  # 1971 and 2100, the bounds of `data.time_columns`
LATEST_US = 4_102_444_800 * MICROSECONDS


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
    """The latest value of one trait. Of two, the one with the greater (time_us, event_id) wins."""

    time_us: int
    event_id: str
    known_us: int
    value: Any  # text, a number, a flag, or None if the trait was removed


@dataclass(frozen=True)
class Profile:
    """What is stored of one user, and also a change to it, since both are joined in the same way.

    Attributes:
        events: the newest in total order, each (time_us, event_id) once, including repeats of items.
        traits: column -> latest value.
        consent: of a change, the answers in it. The store keeps them apart from the profile: a profile that was read
            has None, unless its record is of format 1, which held them.
        feature_time_us: when the platform last learned anything of the user; the time-to-live starts here.
        truncated: whether older events were dropped to limit the size, or lost with a damaged record.
    """

    user_id: str
    events: Sequence[Event] = ()
    traits: Mapping[str, TimedValue] = field(default_factory=dict)
    consent: ConsentRecord | None = None
    feature_time_us: int = 0
    truncated: bool = False


def make_profile(
    user_id: str,
    events: Iterable[Event] = (),
    traits: Mapping[str, TimedValue] | None = None,
    consent: Mapping[str, Answer] | None = None,
) -> Profile:
    """Create a validated profile. Raises ProfileError, naming the field and what was expected."""
    check_text("user_id", user_id)
    events, traits = list(events), dict(traits or {})
    for event in events:
        _check_event(event)
    for name, value in traits.items():
        _check_trait(name, value)
    record = None
    if consent is not None:
        check_consent(consent)
        record = ConsentRecord(dict(consent))
    known = [event.known_us for event in events] + [value.known_us for value in traits.values()]
    return Profile(user_id, _union(events), traits, record, max(known, default=0))


def join_profiles(one: Profile, other: Profile, max_events: int) -> Profile:
    """Combine two profiles of one user, keeping the newest `max_events` events.

    A dropped event is older than `max_events` others, which are never removed. So it would be dropped in any order of
    arrival, and no later join can miss it.
    """
    if one.user_id != other.user_id:
        raise ValueError("profiles of two users do not join")
    events = _union([*one.events, *other.events]) if one.events and other.events else one.events or other.events
    return Profile(
        one.user_id,
        events[-max_events:],
        _latest(one.traits, other.traits, json.dumps),
        merge(one.consent, other.consent) if one.consent and other.consent else one.consent or other.consent,
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
        raise ProfileError(name, f"expected text that is not blank, got {type(value).__name__}")
    if len(value) > MAX_LENGTH:
        raise ProfileError(name, f"expected at most {MAX_LENGTH} characters, got {len(value)}")


def _check_time(name: str, value: object) -> None:
    if not isinstance(value, int) or isinstance(value, bool):
        raise ProfileError(name, f"expected whole microseconds, got {value!r}"[:120])
    if not EARLIEST_US <= value < LATEST_US:
        raise ProfileError(name, f"{value} is out of range (1971 to 2100, in microseconds)")


def _check_times(time_us: object, known_us: object) -> None:
    _check_time("event_time", time_us)
    _check_time("known_time", known_us)
    if known_us < time_us:  # type: ignore[operator]
        raise ProfileError("known_time", f"{known_us} is before event_time {time_us}")


def _check_event(event: Event) -> None:
    for name in ("event_id", "item_id", "event_type"):
        check_text(name, getattr(event, name))
    _check_times(event.time_us, event.known_us)


def check_consent(answers: Mapping[str, Answer]) -> None:
    """Raise a ProfileError unless every answer is well formed. An answer may be from the future: see `data.consent`."""
    for purpose, answer in answers.items():
        check_text("consent", purpose)
        if not isinstance(answer.granted, bool):
            raise ProfileError(f"consent.{purpose}", f"expected true or false, got {answer.granted!r}"[:120])
        _check_time("event_time", answer.time_us)
        check_text("source", answer.source)
        if answer.expires_us is not None:
            _check_time("expires", answer.expires_us)


def _check_trait(name: str, timed: TimedValue) -> None:
    check_text("traits", name)
    check_text("event_id", timed.event_id)
    _check_times(timed.time_us, timed.known_us)
    value = timed.value
    if not isinstance(value, str | int | float | None) or (isinstance(value, float) and not math.isfinite(value)):
        raise ProfileError(f"traits.{name}", f"expected text, a finite number, a flag or null, got {value!r}"[:120])
    if isinstance(value, int) and not -(2**63) <= value < 2**63:  # orjson reads larger integers as floats
        raise ProfileError(f"traits.{name}", f"expected a whole number of at most 64 bits, got {value!r}"[:120])


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
    return {
        name: trait.value
        for name, trait in profile.traits.items()
        if trait.time_us <= as_of_us and trait.known_us <= as_of_us and trait.value is not None
    }
