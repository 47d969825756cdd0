"""What segment rules may ask beside events: traits of users and values of items, read from the ingested tables.

Legend: U users, N item rows (PAD's included).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from command import UserError
from data.columns import ITEM, USER
from features.segments.rules import Condition, Rule, as_value, split_values


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
