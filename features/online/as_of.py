"""A profile as of a moment: what a model, a rule or a guard may see of it then.

History and traits encode to the tensors that training saw: the order and the repeats are those of `data.ingest`.
Segments are computed here, when a profile is read, and are not stored: days since an event grow and events of the
last week leave it while nothing is written, so a stored membership would be wrong by the time it is read; and a
changed rule holds at once, for everybody. A few dozen comparisons over events already in memory cost microseconds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from features.online.profile import Event, Profile, Stated
from features.segments import rules as by_rule
from features.segments.rules import ItemValues, Rule


def history(profile: Profile, as_of_us: int, repeats: str) -> list[Event]:
    """What had happened strictly before a moment and was known by then, in total order, repeats by rule.

    `features.encode.resolve_history` does the same for a history that a request states; there events have no ids,
    so it orders equal times by item. Here they are ordered as in training.

    Args:
        repeats: `first`, `last` or `all`, as `ingest.repeats` was when the model was trained.
    """
    unique: dict[str, Event] = {}  # an id that came with two times counts at the first, as in `data.repeats`
    for event in profile.events:
        if event.time_us < as_of_us and event.known_us <= as_of_us:
            unique.setdefault(event.event_id, event)
    visible = list(unique.values())
    if repeats == "all":
        return visible
    if repeats not in ("first", "last"):
        raise ValueError(f"repeats is {repeats!r}; expected first, last or all")
    kept: dict[str, Event] = {}
    for event in visible if repeats == "first" else reversed(visible):
        kept.setdefault(event.item_id, event)
    return sorted(kept.values())


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
