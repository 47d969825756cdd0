"""Bring the ids of a source's tables to their one spelling, and count how the tables meet; the rule is in `data.ids`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from unicodedata import normalize

import pandas as pd

from data.columns import ITEM, USER
from data.ids import TRIMMED, are_numeric, canonical_id, id_problem, id_shape
from data.readers.sources import Source

MAX_EXAMPLES = 3


@dataclass(frozen=True)
class UnifiedIds:
    """The tables of a source with one spelling per id; other columns, rows and index as in the source.

    Attributes:
        numeric: of user_id and item_id those that are numbers in one of their tables.
        counts: "ids": column -> distinct spellings that were trimmed, normalized (NFC) or shortened (100.0 to 100),
            and an example [before, after] of each, of users its shape; "matches": side table -> how many of its ids the events hold.
    """

    events: pd.DataFrame
    users: pd.DataFrame | None
    items: pd.DataFrame | None
    numeric: list[str]
    counts: dict[str, Any]


def unify_ids(source: Source) -> UnifiedIds:
    """Apply `canonical_id` to the user and item ids of events and side tables."""
    tables = {"events": source.events, "users": source.users, "items": source.items}
    numeric, counts = [], {}
    for column, side in ((USER, "users"), (ITEM, "items")):
        distinct = {name: _distinct(table[column]) for name in ("events", side) if (table := tables[name]) is not None}
        is_numeric = any(map(are_numeric, distinct.values()))
        numeric += [column] if is_numeric else []
        texts = list(dict.fromkeys(text for one in distinct.values() for text in one))
        spelling = {text: canonical_id(text, is_numeric) for text in texts}
        counts[column] = {"numeric": is_numeric, **_describe_changes(spelling, id_shape if column == USER else str)}
        for name in distinct:
            table = tables[name]
            assert table is not None
            tables[name] = table.assign(**{column: replace_ids(table[column], spelling)})
    events, users, items = tables.values()
    assert events is not None
    matches = {
        name: match_ids(table[column], events[column])
        for name, column, table in (("users", USER, users), ("items", ITEM, items))
        if table is not None
    }
    return UnifiedIds(events, users, items, numeric, {"ids": counts, "matches": matches})


def replace_ids(values: pd.Series, spelling: Mapping[str, str]) -> pd.Series:
    """The column with each id replaced by its spelling; null where the id is null or blank."""
    if all(before == after for before, after in spelling.items()):
        return values
    replaced = values.map(spelling)
    return replaced.where(replaced.notna() & (replaced != ""), None)


def match_ids(side: pd.Series, events: pd.Series) -> dict[str, Any]:
    """How many distinct ids each of two columns holds, how many are in both, and examples of the others: of users their shapes."""
    own, seen = set(side.dropna()), set(events.dropna())
    shown = id_shape if side.name == USER else str
    return {
        "ids": len(own),
        "events": len(seen),
        "both": len(own & seen),
        "only_in_table": sorted(map(shown, own - seen))[:MAX_EXAMPLES],
        "only_in_events": sorted(map(shown, seen - own))[:MAX_EXAMPLES],
    }


def id_errors(table: pd.DataFrame, columns: Sequence[str], numeric: Sequence[str]) -> pd.Series:
    """Why ids cannot be used: index of the row -> reason, of the row's first such column. Nulls have no reason."""
    reasons = pd.Series(dtype=object)
    for column in columns:
        problems = {text: id_problem(text, column in numeric) for text in _distinct(table[column])}
        problems = {text: problem for text, problem in problems.items() if problem is not None}
        found = table[column][table[column].isin(list(problems))].drop(reasons.index, errors="ignore")
        reasons = pd.concat([reasons, found.map(problems).map(f"{column} {{}}".format)])
    return reasons


def _distinct(values: pd.Series) -> list[str]:
    return [text for text in values.unique() if isinstance(text, str)]


def _describe_changes(spelling: Mapping[str, str], shown: Callable[[str], str]) -> dict[str, Any]:
    changed: dict[str, list[list[str]]] = {"trimmed": [], "normalized": [], "shortened": []}
    for before, after in spelling.items():
        if before == after:
            continue
        trimmed = before.strip(TRIMMED)
        normal = normalize("NFC", trimmed)
        changed["trimmed"] += [[before, after]] if trimmed != before else []
        changed["normalized"] += [[before, after]] if normal != trimmed else []
        changed["shortened"] += [[before, after]] if after != normal else []
    examples = {kind: list(map(shown, pairs[0])) for kind, pairs in changed.items() if pairs}
    return {**{kind: len(pairs) for kind, pairs in changed.items()}, "examples": examples}
