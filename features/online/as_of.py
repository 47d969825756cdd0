"""A profile as of a moment: what a model, a rule or a guard may see of it then.

History and traits encode to the tensors that training saw: the order and the repeats are those of `data.ingest`.
Segments are computed here, when a profile is read, and are not stored: days since an event grow and events of the
last week leave it while nothing is written, so a stored membership would be wrong by the time it is read; and a
changed rule holds at once, for everybody. A few dozen comparisons over events already in memory cost microseconds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from features.online.profile import Columns, Event, Profile, Stated
from features.segments import rules as by_rule
from features.segments.rules import ItemValues, Rule


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
    # An id that came with two times counts at the first, as in `data.repeats`.
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
    events = [by_rule.Event(event.item_id, event.time_us, event.known_us) for event in seen]
    person = by_rule.Profile(events, traits(profile, as_of_us), as_of_us)
    return by_rule.members(rules, person, as_of_us, items)


def _known(words: Mapping[str, Stated], as_of_us: int) -> dict:
    return {
        name: stated.value
        for name, stated in words.items()
        if stated.time_us <= as_of_us and stated.known_us <= as_of_us
    }
