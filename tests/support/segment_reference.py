"""Segments of a user whose whole past and future is known, by what a moment may see of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from features.segment_rules import ItemValues, Rule, VisibleProfile, compile_rules, matching_rules


class RuleEvent(NamedTuple):
    """One event of a profile. Times are in microseconds."""

    item_id: str
    time_us: int
    known_us: int


@dataclass(frozen=True)
class RuleProfile:
    """All that is known of a user; the traits from `traits_known_us` on, None: never."""

    events: Sequence[RuleEvent]
    traits: Mapping[str, object] = field(default_factory=dict)
    traits_known_us: int | None = None


def matching_segments(rules: Sequence[Rule], profile: RuleProfile, as_of_us: int, items: ItemValues) -> list[str]:
    """Names of the segments that the profile belongs to at a moment, in the order of the rules."""
    events = [event for event in profile.events if event.time_us < as_of_us and event.known_us <= as_of_us]
    known = profile.traits_known_us is not None and profile.traits_known_us <= as_of_us
    times = sorted(event.time_us for event in events)
    visible = VisibleProfile([event.item_id for event in events], times, profile.traits if known else {}, as_of_us)
    return matching_rules(compile_rules(rules, items), visible)
