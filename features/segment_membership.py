"""Evaluate segment rules for many (user, moment) pairs at once, on a log of interactions and the ingested tables.

Legend: U users, N item rows (including PAD's), E events, n pairs, R rules.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from config.command import UserError
from data.columns import DAY, ITEM, USER
from features.ragged import offsets_of
from features.segment_rules import (
    Condition,
    Rule,
    condition_bounds,
    last_days_us,
    split_values,
    trait_values,
    value_text,
)
from features.sequences import InteractionLog


@dataclass(frozen=True)
class SegmentInputs:
    """The traits and item values that rules use, besides events.

    Attributes:
        traits: column -> U values as text, None where unknown.
        items: field -> N sets of values, by item row.
    """

    traits: dict[str, list[str | None]]
    items: dict[str, list[frozenset[str]]]


def collect_inputs(
    rules: Sequence[Rule], users: pd.DataFrame, items: pd.DataFrame, user_ids: Sequence[str], item_ids: Sequence[str]
) -> SegmentInputs:
    """Collect the inputs of rules, in the order of the ids. Row 0 of the items is PAD's, without values.

    Raises UserError if a rule uses a column that the table does not have.
    """
    users = users.set_index(USER).reindex(user_ids)
    items = items.set_index(ITEM).reindex(item_ids)
    inputs = SegmentInputs({}, {})
    for rule in rules:
        for condition in (*rule.get("all", ()), *rule.get("any", ())):
            if "trait" in condition:
                name = condition["trait"]
                inputs.traits[name] = list(map(value_text, _column(users, name, rule, "users")))
            elif "share_of" in condition:
                name = condition["share_of"]["field"]
                inputs.items[name] = [frozenset(), *map(split_values, _column(items, name, rule, "items"))]
    return inputs


def _column(table: pd.DataFrame, name: str, rule: Rule, kind: str) -> list:
    if name not in table:
        known = ", ".join(table.columns) or "none"
        raise UserError(f"segments.rules: {rule['name']} uses {name}, which the {kind} do not have; theirs: {known}")
    return table[name].tolist()


def membership(
    rules: Sequence[Rule], log: InteractionLog, inputs: SegmentInputs, user: np.ndarray, time_us: np.ndarray
) -> np.ndarray:
    """(n, R) bool: whether each pair of a user row and a moment in microseconds is in each segment.

    A user's traits are known from the first known event on.
    """
    pairs = _UserMoments(log, inputs, user, time_us)
    belongs = np.ones((len(user), len(rules)), dtype=bool)
    for column, rule in enumerate(rules):
        for condition in rule.get("all", ()):
            belongs[:, column] &= pairs.fulfill(condition)
        if "any" in rule:
            belongs[:, column] &= np.logical_or.reduce([pairs.fulfill(condition) for condition in rule["any"]])
    return belongs


class _UserMoments:
    """The pairs, each with the prefix of its user's events that it may see."""

    def __init__(self, log: InteractionLog, inputs: SegmentInputs, user: np.ndarray, time_us: np.ndarray) -> None:
        self.inputs, self.user, self.time_us = inputs, user, time_us
        requested = np.zeros(len(log.offsets) - 1, dtype=bool)
        requested[user] = True
        rows = np.flatnonzero(requested[log.users])  # most logs hold many more users than are requested
        self.owner, self.items, self.times = log.users[rows], log.items[rows], log.times[rows]
        self.known_from = np.maximum(self.times, log.known[rows])
        self.seen_from = np.maximum(self.times + 1, self.known_from)
        self.order = np.lexsort((self.seen_from, self.owner))
        self.start = np.searchsorted(self.owner, user)
        self.count = _count_until(self.owner, self.seen_from, user, time_us)

    def fulfill(self, condition: Condition) -> np.ndarray:
        """(n,) bool."""
        if "trait" in condition:
            return self._has_trait(condition)
        number = self._number(condition)
        # NaN, an undefined number, lies within no bound.
        return np.logical_and.reduce([test(number, bound) for test, bound in condition_bounds(condition)])

    def _has_trait(self, condition: Condition) -> np.ndarray:
        accepted = trait_values(condition)
        matches = np.array([value in accepted for value in self.inputs.traits[condition["trait"]]])
        first_known = np.full(len(matches), np.iinfo(np.int64).max)
        np.minimum.at(first_known, self.owner, self.known_from)
        return matches[self.user] & (first_known[self.user] <= self.time_us)

    def _number(self, condition: Condition) -> np.ndarray:
        if condition.get("fact") == "events":
            return self._recent_events(last_days_us(condition)) if "last_days" in condition else self.count
        if "share_of" in condition:
            return self._share(condition["share_of"]["field"], condition["share_of"]["value"])
        return self._days_since(first=condition["fact"] == "days_since_first")

    def _recent_events(self, span: int) -> np.ndarray:
        """(n,) visible events of the last `span` microseconds: each counts from when it is seen until it is too old."""
        last = self.times + span
        in_time = last >= self.seen_from  # not an event that became known too late
        owner = self.owner[in_time]
        entered = _count_until(owner, self.seen_from[in_time], self.user, self.time_us)
        return entered - _count_until(owner, last[in_time], self.user, self.time_us - 1)

    def _share(self, field: str, value: str) -> np.ndarray:
        """(n,) share of the visible events whose item has the value; NaN without events."""
        values = self.inputs.items[field]
        has_value = np.fromiter((value in item for item in values), bool, len(values))
        hits = offsets_of(has_value[self.items[self.order]])
        part = hits[self.start + self.count] - hits[self.start]
        return np.divide(part, self.count, out=np.full(len(part), np.nan), where=self.count > 0)

    def _days_since(self, first: bool) -> np.ndarray:
        """(n,) days since the first or the last of the visible events; NaN without events."""
        instants, rank = np.unique(self.times[self.order], return_inverse=True)
        # Shifted by user, so that the running extreme restarts with each.
        shift = self.owner[self.order] * (len(instants) + 1)
        if first:
            rank = np.minimum.accumulate(rank - shift) + shift
        else:
            rank = np.maximum.accumulate(rank + shift) - shift
        some = self.count > 0
        last_visible = (self.start + self.count - 1)[some]
        days = np.full(len(self.user), np.nan)
        days[some] = (self.time_us[some] - instants[rank[last_visible]]) / DAY
        return days


def _count_until(owner: np.ndarray, values: np.ndarray, user: np.ndarray, moment: np.ndarray) -> np.ndarray:
    """(n,) how many of each user's values are at or before a moment."""
    distinct = np.unique(values)
    step = len(distinct) + 1
    keys = np.sort(owner * step + np.searchsorted(distinct, values))
    base = user * step
    return np.searchsorted(keys, base + np.searchsorted(distinct, moment, side="right")) - np.searchsorted(keys, base)
