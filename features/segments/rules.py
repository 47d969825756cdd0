"""Segments by rule: a pure function of one profile and one moment. Written for reading; `membership` is for many.

A rule is {"name", "all": [condition, ...], "any": [condition, ...]}; `segment_params` says what a condition may be.
The serving worker may import this file: nothing but the standard library.
"""

from __future__ import annotations

import operator
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from data.columns import DAY

Rule = Mapping[str, Any]
Condition = Mapping[str, Any]
ItemValues = Mapping[str, Mapping[str, frozenset[str]]]  # item_id -> field -> its values


class RuleEvent(NamedTuple):
    """One event of a profile; times in microseconds."""

    item_id: str
    time_us: int
    known_us: int  # when the platform learned of it


@dataclass(frozen=True)
class RuleProfile:
    """All that is known of a user, past and future alike: `members` looks only at what its moment may see.

    Attributes:
        traits: column -> value; None where unknown.
        traits_known_us: the moment from which the traits are known; None is never.
    """

    events: Sequence[RuleEvent]
    traits: Mapping[str, object] = field(default_factory=dict)
    traits_known_us: int | None = None


class Seen(NamedTuple):
    """What rules may look at, as of a moment: only what had happened and was known."""

    items: Sequence[str]  # of the events
    times: Sequence[int]  # of the events, microseconds, ascending
    traits: Mapping[str, object]
    as_of_us: int


Test = Callable[[Seen], bool]


def members(rules: Sequence[Rule], profile: RuleProfile, as_of_us: int, items: ItemValues) -> list[str]:
    """Names of the segments that the profile belongs to at a moment, in the order of the rules.

    Only events strictly before the moment and known by then count. A number that does not exist (days since an
    event that never was, a share of no events) and a trait that is not known fulfil no condition.
    """
    events = [event for event in profile.events if event.time_us < as_of_us and event.known_us <= as_of_us]
    known = profile.traits_known_us is not None and profile.traits_known_us <= as_of_us
    times = sorted([event.time_us for event in events])
    seen = Seen([event.item_id for event in events], times, profile.traits if known else {}, as_of_us)
    return fulfilled(tests_of(rules, items), seen)


def fulfilled(tests: Sequence[tuple[str, Test]], seen: Seen) -> list[str]:
    """Names of the rules whose test holds."""
    return [name for name, holds in tests if holds(seen)]


def tests_of(rules: Sequence[Rule], items: ItemValues) -> list[tuple[str, Test]]:
    """Each rule's name and its test, read once for many profiles."""
    return [(rule["name"], _rule(rule, items)) for rule in rules]


def _rule(rule: Rule, items: ItemValues) -> Test:
    needed = [_condition(one, items) for one in rule.get("all", ())]
    either = [_condition(one, items) for one in rule["any"]] if "any" in rule else None
    if len(needed) == 1 and either is None:
        return needed[0]

    def holds(seen: Seen) -> bool:
        return all(test(seen) for test in needed) and (either is None or any(test(seen) for test in either))

    return holds


def _condition(condition: Condition, items: ItemValues) -> Test:
    if "trait" in condition:
        trait, wanted = condition["trait"], wanted_values(condition)
        return lambda seen: as_value(seen.traits.get(trait)) in wanted
    number = _number(condition, items)
    bounds = [(test, condition[name]) for name, test in stated_bounds(condition)]

    def holds(seen: Seen) -> bool:
        found = number(seen)
        if found is None:
            return False
        for test, bound in bounds:  # noqa: SIM110  # a generator takes longer, and every answer waits for this
            if not test(found, bound):
                return False
        return True

    return holds


def _number(condition: Condition, items: ItemValues) -> Callable[[Seen], float | None]:
    """The number that a condition bounds; None where it does not exist."""
    if "share_of" in condition:
        field_name, value = condition["share_of"]["field"], condition["share_of"]["value"]
        has = lambda item: value in items.get(item, {}).get(field_name, ())  # noqa: E731
        return lambda seen: sum(map(has, seen.items)) / len(seen.items) if seen.items else None
    if condition["fact"] == "events":
        if "last_days" not in condition:
            return lambda seen: len(seen.times)
        span = span_us(condition)
        return lambda seen: len(seen.times) - bisect_left(seen.times, seen.as_of_us - span)
    at = 0 if condition["fact"] == "days_since_first" else -1
    return lambda seen: (seen.as_of_us - seen.times[at]) / DAY if seen.times else None


BOUNDS: dict[str, Callable[[Any, float], Any]] = {
    "at_least": operator.ge,
    "at_most": operator.le,
    "above": operator.gt,
    "below": operator.lt,
}


def stated_bounds(condition: Condition) -> list[tuple[str, Callable[[Any, float], Any]]]:
    """The bounds that a condition states, by name."""
    return [(name, test) for name, test in BOUNDS.items() if name in condition]


def span_us(condition: Condition) -> int:
    """`last_days` in microseconds."""
    return round(condition["last_days"] * DAY)


def wanted_values(condition: Condition) -> set[str]:
    """The values that a condition on a trait asks for."""
    given = condition["in"] if "in" in condition else [condition["equals"]]
    return {text for value in given if (text := as_value(value)) is not None}


def as_value(value: object) -> str | None:
    """A trait's value as text: 25 and 25.0 are one value, and so are None and NaN."""
    if value is None or value != value:
        return None
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


def split_values(cell: object) -> frozenset[str]:
    """The values in a cell of an item's column: "Drama|Comedy" holds two."""
    text = as_value(cell)
    return frozenset(part.strip() for part in text.split("|") if part.strip()) if text is not None else frozenset()


def describe(rule: Rule) -> str:
    """A rule in words, for those who read its numbers."""
    parts = [" and ".join(map(_words, rule["all"]))] if "all" in rule else []
    parts += [" or ".join(map(_words, rule["any"]))] if "any" in rule else []
    return "; and ".join(parts)


def _words(condition: Condition) -> str:
    if "trait" in condition:
        return f"{condition['trait']} is {' or '.join(sorted(wanted_values(condition)))}"
    bounds = " and ".join(f"{name.replace('_', ' ')} {condition[name]:g}" for name, _ in stated_bounds(condition))
    if "share_of" in condition:
        return f"share of events with {condition['share_of']['field']} {condition['share_of']['value']} {bounds}"
    asked = {"events": "events", "days_since_first": "days since the first event",
             "days_since_last": "days since the last event"}[condition["fact"]]  # fmt: skip
    limit = f" of the last {condition['last_days']:g} days" if "last_days" in condition else ""
    return f"{asked}{limit} {bounds}"
