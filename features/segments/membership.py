"""What segment rules may ask beside events: traits of users and values of items, read from the ingested tables.

Legend: U users, N item rows (PAD's included).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from config.command import UserError
from data.columns import DAY, ITEM, USER
from features.segments.rules import Condition, Rule, as_value, span_us, split_values, stated_bounds, wanted_values
from features.sequences import Log


@dataclass(frozen=True)
class Facts:
    """Only what the rules ask for.

    Attributes:
        traits: column -> (U,) codes, -1 where unknown, and the values that they stand for.
        items: field -> N sets of values, by item row.
    """

    traits: Mapping[str, tuple[np.ndarray, list[str | None]]]
    items: Mapping[str, Sequence[frozenset[str]]]


def gather(
    rules: Sequence[Rule], users: pd.DataFrame, items: pd.DataFrame, user_ids: Sequence[str], item_ids: Sequence[str]
) -> Facts:
    """The facts of users and items in the order of their ids; row 0 of the items is PAD's, without values.

    Raises:
        UserError: a rule asks for a column that the table does not have.
    """
    people = users.set_index(USER).reindex(user_ids)
    things = items.set_index(ITEM).reindex(item_ids)
    traits, fields = {}, {}
    for rule in rules:
        for condition in conditions(rule):
            if "trait" in condition:
                name = condition["trait"]
                codes, distinct = pd.factorize(_column(people, name, rule, "users"))
                traits[name] = codes, [as_value(value) for value in distinct.tolist()]
            elif "share_of" in condition:
                name = condition["share_of"]["field"]
                column = _column(things, name, rule, "items")
                fields[name] = [frozenset(), *map(split_values, column.tolist())]
    return Facts(traits, fields)


def conditions(rule: Rule) -> list[Condition]:
    """Every condition of a rule."""
    return [*rule.get("all", ()), *rule.get("any", ())]


def _column(table: pd.DataFrame, name: str, rule: Rule, kind: str) -> pd.Series:
    if name not in table:
        known = ", ".join(table.columns) or "none"
        raise UserError(
            f"segments.rules: {rule['name']} asks for {name}, which the {kind} do not have; theirs: {known}"
        )
    return table[name]


def membership(rules: Sequence[Rule], log: Log, facts: Facts, user: np.ndarray, time_us: np.ndarray) -> np.ndarray:
    """(n, R) bool: whether each pair is in each segment. A user's traits are known from the first known event on.

    Args:
        user, time_us: (n,) user rows and moments in microseconds.
    """
    asked = _Asked(log, facts, user, time_us)
    belongs = np.ones((len(user), len(rules)), dtype=bool)
    for column, rule in enumerate(rules):
        for condition in rule.get("all", ()):
            belongs[:, column] &= asked.holds(condition)
        if "any" in rule:
            belongs[:, column] &= np.logical_or.reduce([asked.holds(condition) for condition in rule["any"]])
    return belongs


class _Asked:
    """The pairs, with the prefix of its user's events that each may see."""

    def __init__(self, log: Log, facts: Facts, user: np.ndarray, time_us: np.ndarray) -> None:
        self.facts, self.user, self.time_us = facts, user, time_us
        asked = np.zeros(len(log.offsets) - 1, dtype=bool)
        asked[user] = True
        rows = np.flatnonzero(asked[log.users])  # most logs hold many more users than are asked about
        self.owner, self.items, self.times = log.users[rows], log.items[rows], log.times[rows]
        self.known_from = np.maximum(self.times, log.known[rows])
        self.seen_from = np.maximum(self.times + 1, self.known_from)
        self.order = np.lexsort((self.seen_from, self.owner))
        self.start = np.searchsorted(self.owner, user)
        self.count = _until(self.owner, self.seen_from, user, time_us)

    def holds(self, condition: Condition) -> np.ndarray:
        """(n,) bool."""
        if "trait" in condition:
            return self._trait(condition)
        number = self._number(condition)
        inside = [test(number, condition[name]) for name, test in stated_bounds(condition)]
        return np.logical_and.reduce(inside)  # NaN, where there is no number, lies within no bound

    def _trait(self, condition: Condition) -> np.ndarray:
        codes, values = self.facts.traits[condition["trait"]]
        wanted = wanted_values(condition)
        fits = np.array([*(value in wanted for value in values), False])[codes]  # code -1 is an unknown value
        first_known = np.full(len(codes), np.iinfo(np.int64).max)
        np.minimum.at(first_known, self.owner, self.known_from)
        return fits[self.user] & (first_known[self.user] <= self.time_us)

    def _number(self, condition: Condition) -> np.ndarray:
        if condition.get("fact") == "events":
            return self._recent(span_us(condition)) if "last_days" in condition else self.count
        if "share_of" in condition:
            return self._share(condition["share_of"]["field"], condition["share_of"]["value"])
        return self._days_since(first=condition["fact"] == "days_since_first")

    def _recent(self, span: int) -> np.ndarray:
        """(n,) seen events of the last `span` microseconds: each counts from when it is seen until it is too old."""
        last = self.times + span
        ever = last >= self.seen_from  # not one that became known too late
        owner = self.owner[ever]
        entered = _until(owner, self.seen_from[ever], self.user, self.time_us)
        return entered - _until(owner, last[ever], self.user, self.time_us - 1)

    def _share(self, field: str, value: str) -> np.ndarray:
        has = np.fromiter((value in values for values in self.facts.items[field]), bool, len(self.facts.items[field]))
        hits = np.concatenate([[0], np.cumsum(has[self.items[self.order]])])
        return _or_nan(hits[self.start + self.count] - hits[self.start], self.count)

    def _days_since(self, first: bool) -> np.ndarray:
        """(n,) days since the first or the last of the seen events."""
        instants, rank = np.unique(self.times[self.order], return_inverse=True)
        # Shifted by user, so that a running extreme begins anew with each.
        shift = self.owner[self.order] * (len(instants) + 1)
        if first:
            extreme = np.minimum.accumulate(rank - shift) + shift
        else:
            extreme = np.maximum.accumulate(rank + shift) - shift
        found = self.count > 0
        at = np.where(found, self.start + self.count - 1, 0)
        since = np.full(len(self.user), np.nan)
        since[found] = (self.time_us[found] - instants[extreme[at[found]]]) / DAY
        return since


def _until(owner: np.ndarray, values: np.ndarray, user: np.ndarray, moment: np.ndarray) -> np.ndarray:
    """(n,) how many of each user's values are at or before a moment."""
    distinct = np.unique(values)
    step = len(distinct) + 1
    keys = np.sort(owner * step + np.searchsorted(distinct, values))
    base = user * step
    return np.searchsorted(keys, base + np.searchsorted(distinct, moment, side="right")) - np.searchsorted(keys, base)


def _or_nan(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.full(len(part), np.nan), where=whole > 0)
