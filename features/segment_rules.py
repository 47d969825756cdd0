"""Evaluate segment rules for one user and one moment. `features.segment_membership` evaluates many at once.

A rule is {"name", "all": [condition, ...], "any": [condition, ...]}; `config.params` defines the conditions. The
serving worker loads this module, so it uses only the standard library.
"""

from __future__ import annotations

import operator
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from data.columns import DAY

Rule = Mapping[str, Any]
Condition = Mapping[str, Any]
ItemValues = Mapping[str, Mapping[str, frozenset[str]]]  # item_id -> field -> its values

BOUNDS: dict[str, Callable[[Any, float], Any]] = {
    "at_least": operator.ge,
    "at_most": operator.le,
    "above": operator.gt,
    "below": operator.lt,
}
FACTS = {
    "events": "events",
    "days_since_first": "days since the first event",
    "days_since_last": "days since the last event",
}


class VisibleProfile(NamedTuple):
    """What rules may use at a moment: only what had happened strictly before it and was known by then."""

    items: Sequence[str]  # of the events
    times: Sequence[int]  # of the events, microseconds, ascending
    traits: Mapping[str, object]
    as_of_us: int


Predicate = Callable[[VisibleProfile], bool]


def matching_rules(predicates: Sequence[tuple[str, Predicate]], profile: VisibleProfile) -> list[str]:
    """Names of the compiled rules that hold, in their order."""
    return [name for name, holds in predicates if holds(profile)]


def compile_rules(rules: Sequence[Rule], items: ItemValues) -> list[tuple[str, Predicate]]:
    """Compile each rule to its name and a predicate, for use on many profiles.

    An undefined number (days since an event that never happened, a share of no events) and an unknown trait fulfill no
    condition.
    """
    return [(rule["name"], _compile_rule(rule, items)) for rule in rules]


def _compile_rule(rule: Rule, items: ItemValues) -> Predicate:
    required = [_compile_condition(condition, items) for condition in rule.get("all", ())]
    alternatives = [_compile_condition(condition, items) for condition in rule.get("any", ())]
    if len(required) == 1 and not alternatives:
        return required[0]

    def holds(profile: VisibleProfile) -> bool:
        return all(test(profile) for test in required) and (
            not alternatives or any(test(profile) for test in alternatives)
        )

    return holds


def _compile_condition(condition: Condition, items: ItemValues) -> Predicate:
    if "trait" in condition:
        trait, accepted = condition["trait"], trait_values(condition)
        return lambda profile: value_text(profile.traits.get(trait)) in accepted
    number = _compile_number(condition, items)
    bounds = condition_bounds(condition)

    def holds(profile: VisibleProfile) -> bool:
        value = number(profile)
        if value is None:
            return False
        for test, bound in bounds:  # noqa: SIM110  # a generator is slower, and every request waits for this
            if not test(value, bound):
                return False
        return True

    return holds


def _compile_number(condition: Condition, items: ItemValues) -> Callable[[VisibleProfile], float | None]:
    """The number that a condition bounds; None where it is undefined."""
    if "share_of" in condition:
        name, value = condition["share_of"]["field"], condition["share_of"]["value"]

        def share(profile: VisibleProfile) -> float | None:
            if not profile.items:
                return None
            return sum(value in items.get(item, {}).get(name, ()) for item in profile.items) / len(profile.items)

        return share
    if condition["fact"] == "events":
        if "last_days" not in condition:
            return lambda profile: len(profile.times)
        span = last_days_us(condition)
        return lambda profile: len(profile.times) - bisect_left(profile.times, profile.as_of_us - span)
    index = 0 if condition["fact"] == "days_since_first" else -1
    return lambda profile: (profile.as_of_us - profile.times[index]) / DAY if profile.times else None


def condition_bounds(condition: Condition) -> list[tuple[Callable[[Any, float], Any], float]]:
    """The bounds of a condition: comparison and number."""
    return [(test, condition[name]) for name, test in BOUNDS.items() if name in condition]


def last_days_us(condition: Condition) -> int:
    """`last_days` in microseconds."""
    return round(condition["last_days"] * DAY)


def trait_values(condition: Condition) -> set[str]:
    """The values that a condition on a trait accepts."""
    accepted = condition["in"] if "in" in condition else [condition["equals"]]
    return {text for value in accepted if (text := value_text(value)) is not None}


def value_text(value: object) -> str | None:
    """A trait's value as text: 25 and 25.0 are the same value; None and NaN are None."""
    if value is None or value != value:
        return None
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


def split_values(cell: object) -> frozenset[str]:
    """The values in a cell of an item's column: "Drama|Comedy" holds two."""
    return frozenset(part.strip() for part in (value_text(cell) or "").split("|") if part.strip())


def describe_rule(rule: Rule) -> str:
    """A rule in words, for reports."""
    joined = [
        f" {word} ".join(map(_describe_condition, rule[key]))
        for key, word in (("all", "and"), ("any", "or"))
        if key in rule
    ]
    return "; and ".join(joined)


def _describe_condition(condition: Condition) -> str:
    if "trait" in condition:
        return f"{condition['trait']} is {' or '.join(sorted(trait_values(condition)))}"
    bounds = " and ".join(f"{name.replace('_', ' ')} {condition[name]:g}" for name in BOUNDS if name in condition)
    if "share_of" in condition:
        return f"share of events with {condition['share_of']['field']} {condition['share_of']['value']} {bounds}"
    limit = f" of the last {condition['last_days']:g} days" if "last_days" in condition else ""
    return f"{FACTS[condition['fact']]}{limit} {bounds}"
