"""One user's profile, and how two accounts of one user become one.

Profiles form a join-semilattice: `join` is commutative, associative and idempotent. So whatever the order in which
events arrive, however often and however late, all stores end with the same profile. (Shapiro et al. 2011,
"Conflict-free replicated data types": events are a bounded grow-only set, traits and consent last-writer-wins
registers.)
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from operator import add
from typing import Any, NamedTuple

from data.columns import MICROSECONDS
from features.online.errors import ProfileError
from features.segments import rules as by_rule
from features.segments.rules import ItemValues, Rule

EARLIEST_US = 31_536_000 * MICROSECONDS  # 1971 and 2100, as `data.times` bounds what is ingested
LATEST_US = 4_102_444_800 * MICROSECONDS
PERSONALISATION = "personalisation"  # the purpose of consent that an answer of one's own needs
MOST_CHARACTERS = 256  # of an id or a name


class Event(NamedTuple):
    """One event of a history. Tuples compare as the total order of events does: (event_time, event_id)."""

    time_us: int
    event_id: str
    known_us: int  # when the platform learned of it
    item_id: str
    event_type: str


class Columns(Sequence[Event]):
    """Events by column, as a record holds them: most readers want two of the five. Equal to the tuple of its events."""

    def __init__(
        self, times: list[int], ids: list[str], lags: list[int], items: list[str], names: list[str], kinds: list[int]
    ) -> None:
        """Args: lags: from happening to being known; names, kinds: the types that occur, and which of them each is."""
        self.times, self.ids, self.items = times, ids, items
        self._lags, self._names, self._kinds = lags, names, kinds

    @cached_property
    def whole(self) -> tuple[Event, ...]:
        """The events, each as one."""
        known, types = map(add, self.times, self._lags), [self._names[kind] for kind in self._kinds]
        columns = zip(self.times, self.ids, known, self.items, types, strict=True)
        return tuple(map(Event._make, columns))

    def __len__(self) -> int:
        return len(self.times)

    def __getitem__(self, at):  # an Event, or of a slice a tuple of them
        return self.whole[at]

    def __iter__(self) -> Iterator[Event]:
        return iter(self.whole)

    def __eq__(self, other: object) -> bool:
        return self.whole == (other.whole if isinstance(other, Columns) else other)

    __hash__ = None  # type: ignore[assignment]


class Stated(NamedTuple):
    """The latest word on one trait or one purpose of consent; of two, the greater (time_us, event_id) holds."""

    time_us: int
    event_id: str
    known_us: int
    value: Any  # of a trait: text, a number, a flag, or None where it was taken back; of consent: a flag


@dataclass(frozen=True)
class Profile:
    """What is stored of one user; also what a writer adds to it, since both join in the same way.

    Attributes:
        events: the newest in total order, each (time_us, event_id) once, repeats of items included.
        traits, consent: column or purpose -> what was stated last.
        feature_time_us: when the platform last learned anything of the user; what time-to-live counts from.
        truncated: whether older events were dropped for want of room, or a lost record left a gap.
    """

    user_id: str
    events: Sequence[Event] = ()
    traits: Mapping[str, Stated] = field(default_factory=dict)
    consent: Mapping[str, Stated] = field(default_factory=dict)
    feature_time_us: int = 0
    truncated: bool = False

    @property
    def counters(self) -> dict[str, int]:
        """Events by type. Counted, not kept: a stored counter could not tell a repeated arrival from a new one."""
        return dict(Counter(event.event_type for event in self.events))


def make(
    user_id: str,
    events: Iterable[Event] = (),
    traits: Mapping[str, Stated] | None = None,
    consent: Mapping[str, Stated] | None = None,
) -> Profile:
    """A checked profile of what is given.

    Raises:
        ProfileError: names the field and what was expected.
    """
    check_text("user_id", user_id)
    listed, traits, consent = list(events), dict(traits or {}), dict(consent or {})
    for event in listed:
        _check_event(event)
    for kind, words in (("traits", traits), ("consent", consent)):
        for name, stated in words.items():
            _check_stated(kind, name, stated)
    known = [event.known_us for event in listed]
    known += [stated.known_us for words in (traits, consent) for stated in words.values()]
    return Profile(user_id, _union(listed), traits, consent, max(known, default=0))


def join(one: Profile, other: Profile, max_events: int) -> Profile:
    """Everything that either account holds, of events the newest `max_events`.

    An event that is dropped is older than `max_events` others, which never go away: so it would have been dropped
    in whatever order they came, and nothing that is dropped can ever be missed by a later join.
    """
    if one.user_id != other.user_id:
        raise ValueError(f"profiles of two users, {one.user_id!r} and {other.user_id!r}, do not join")
    events = _union([*one.events, *other.events]) if one.events and other.events else one.events or other.events
    return Profile(
        one.user_id,
        events[-max_events:],
        _latest(one.traits, other.traits, _as_text),
        _latest(one.consent, other.consent, lambda granted: not granted),  # at a full tie a no is a no
        max(one.feature_time_us, other.feature_time_us),
        one.truncated or other.truncated or len(events) > max_events,
    )


def _union(events: list[Event]) -> tuple[Event, ...]:
    """Events in total order; of those that share time and id the least, as `data.cleaning` keeps it."""
    kept: dict[tuple[int, str], Event] = {}
    for event in sorted(events):
        kept.setdefault(event[:2], event)
    return tuple(kept.values())


def _latest(one: Mapping[str, Stated], other: Mapping[str, Stated], key: Callable) -> Mapping[str, Stated]:
    if not one or not other:
        return one or other
    # The earliest `known_us` wins among equals: a repeated arrival teaches nothing new.
    rank = lambda stated: (stated.time_us, stated.event_id, key(stated.value), -stated.known_us)  # noqa: E731
    both = {name: max(one[name], other[name], key=rank) for name in one.keys() & other.keys()}
    return {**one, **other, **both}


def _as_text(value: object) -> str:
    return json.dumps(value)


def check_text(name: str, value: object) -> None:
    """Raise a ProfileError unless the value is text of a sensible length."""
    if not isinstance(value, str) or not value.strip():
        raise ProfileError(name, f"expected text that is not blank, got {value!r}"[:120])
    if len(value) > MOST_CHARACTERS:
        raise ProfileError(name, f"expected at most {MOST_CHARACTERS} characters, got {len(value)}")


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


def _check_stated(kind: str, name: str, stated: Stated) -> None:
    check_text(kind, name)
    check_text("event_id", stated.event_id)
    _check_times(stated.time_us, stated.known_us)
    value = stated.value
    if kind == "consent" and not isinstance(value, bool):
        raise ProfileError(f"consent.{name}", f"expected true or false, got {value!r}"[:120])
    if not isinstance(value, str | int | float | None) or (isinstance(value, float) and not math.isfinite(value)):
        raise ProfileError(f"{kind}.{name}", f"expected text, a finite number, a flag or null, got {value!r}"[:120])
    if isinstance(value, int) and not -(2**63) <= value < 2**63:  # what reads records fast makes a float of it
        raise ProfileError(f"{kind}.{name}", f"expected a whole number of at most 64 bits, got {value!r}"[:120])


def history(profile: Profile, as_of_us: int, repeats: str) -> list[Event]:
    """What had happened strictly before a moment and was known by then, in total order, repeats by rule.

    `features.encode.resolve_history` does the same for a history that a request states; there events have no ids,
    so it orders equal times by item. Here they are ordered as in training.

    Args:
        repeats: `first`, `last` or `all`, as `ingest.repeats` was when the model was trained.
    """
    if repeats not in ("first", "last", "all"):
        raise ValueError(f"repeats is {repeats!r}; expected first, last or all")
    visible: Sequence[Event] = profile.events
    if visible and (visible[-1].time_us >= as_of_us or profile.feature_time_us > as_of_us):
        visible = [event for event in visible if event.time_us < as_of_us and event.known_us <= as_of_us]
    # An id that came with two times counts at the first, as in `data.cleaning`.
    visible = _first_of_each([event.event_id for event in visible], visible)
    if repeats == "last":
        backwards = visible[::-1]
        return list(_first_of_each([event.item_id for event in backwards], backwards)[::-1])
    if repeats == "first":
        visible = _first_of_each([event.item_id for event in visible], visible)
    return list(visible)


def seen(profile: Profile, as_of_us: int, repeats: str) -> tuple[list[str], list[int]]:
    """Items and times of `history`, which is what a model reads of it."""
    events = profile.events
    if isinstance(events, Columns) and events.times:
        items, times = events.items, events.times
        all_known = times[-1] < as_of_us and profile.feature_time_us <= as_of_us
        if all_known and len(set(events.ids)) == len(times) and (repeats == "all" or len(set(items)) == len(times)):
            return items, times  # as a rule; and no Event is made, since every answer waits for this
    found = history(profile, as_of_us, repeats)
    return [event.item_id for event in found], [event.time_us for event in found]


def _first_of_each(keys: Sequence[str], events: Sequence[Event]) -> Sequence[Event]:
    """In their order, without those whose key stood before."""
    if len(set(keys)) == len(keys):  # as a rule; looked at first, since every answer waits for this
        return events
    kept: dict[str, Event] = {}
    for key, event in zip(keys, events, strict=True):
        kept.setdefault(key, event)
    return list(kept.values())


def traits(profile: Profile, as_of_us: int) -> dict[str, object]:
    """Column -> value of the traits known at a moment, as `features.encode.trait_row` takes them.

    Only the latest word is kept: a trait that changed after the moment is unknown at it.
    """
    return {name: value for name, value in _known(profile.traits, as_of_us).items() if value is not None}


def consent(profile: Profile, as_of_us: int) -> dict[str, bool]:
    """Purpose -> whether the user agreed, of the purposes that the user was asked about by then."""
    return _known(profile.consent, as_of_us)


def segments(profile: Profile, rules: Sequence[Rule], as_of_us: int, repeats: str, items: ItemValues) -> list[str]:
    """Names of the segments that the user is in at a moment; see `features.segments.rules.members`.

    Args:
        items: item_id -> field -> values, for the fields that rules ask about.
    """
    seen = history(profile, as_of_us, repeats)
    events = [by_rule.RuleEvent(event.item_id, event.time_us, event.known_us) for event in seen]
    person = by_rule.RuleProfile(events, traits(profile, as_of_us), as_of_us)
    return by_rule.members(rules, person, as_of_us, items)


def _known(words: Mapping[str, Stated], as_of_us: int) -> dict:
    return {
        name: stated.value
        for name, stated in words.items()
        if stated.time_us <= as_of_us and stated.known_us <= as_of_us
    }
