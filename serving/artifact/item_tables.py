"""What an artifact says of items and segments, computed at export from the ingested tables.

Legend: U users, R rules, N item rows (PAD's included).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from config.paths import INGESTED
from data.columns import DAY, ITEM
from data.tables import read_table
from features.feature_files import Features
from features.segments.membership import collect_inputs, membership
from features.segments.rules import Rule, split_values
from serving.worker import fallback, rerank

MOST_VALUES = 1000  # of a column; one with more (a title, a text) tells items apart and groups none
POPULAR_DAYS = 30
POPULAR_ITEMS = 200


@dataclass(frozen=True)
class Sides:
    """The ingested side tables of users and items."""

    users: pd.DataFrame
    items: pd.DataFrame

    @classmethod
    def read(cls, folder: Path = INGESTED) -> Sides:
        """Those of a data set; UserError where ingest has not run."""
        return cls(*(read_table(folder / f"{name}.parquet", "python -m data.ingest") for name in ("users", "items")))


def write(folder: Path, rules: Sequence[Rule], sides: Sides, features: Features) -> None:
    """attributes.json and segments.json of an artifact."""
    rows = item_attributes(sides.items, features.vocabulary.ids)
    (folder / rerank.ATTRIBUTES_FILE).write_text(json.dumps(rows, ensure_ascii=False))
    lists = {"rules": list(rules), "popular": popular_by_segment(rules, sides, features)}
    (folder / fallback.SEGMENTS_FILE).write_text(json.dumps(lists, ensure_ascii=False))


def item_attributes(items: pd.DataFrame, ids: Sequence[str]) -> dict[str, dict[str, list[int]]]:
    """Column -> value -> item rows, of the columns of text with few values; `Drama|Comedy` is two."""
    listed = items.set_index(ITEM).reindex(ids)
    found = {}
    for column in listed.select_dtypes(["object", "string", "category", "bool"]):
        rows: dict[str, list[int]] = {}
        for row, cell in enumerate(listed[column].tolist(), start=1):
            for value in split_values(cell):
                rows.setdefault(value, []).append(row)
        if 0 < len(rows) <= MOST_VALUES:
            found[str(column)] = dict(sorted(rows.items()))
    return found


def popular_by_segment(rules: Sequence[Rule], sides: Sides, features: Features) -> dict[str, list[tuple[int, int]]]:
    """Segment -> (item row, events of its members in the last 30 days before the cut), most first."""
    facts = collect_inputs(rules, sides.users, sides.items, features.users, features.vocabulary.ids)
    everybody = np.arange(len(features.users))
    inside = membership(rules, features.log, facts, everybody, np.full(len(everybody), features.cut_us))  # (U, R)
    past = features.past
    recent = (past.times >= features.cut_us - POPULAR_DAYS * DAY) & (past.items != 0)
    found = {}
    for column, rule in enumerate(rules):
        taken = past.items[recent & inside[past.users, column]]
        counts = np.bincount(taken, minlength=len(features.vocabulary))
        best = np.argsort(-counts, kind="stable")[:POPULAR_ITEMS]
        found[rule["name"]] = [(int(row), int(counts[row])) for row in best if counts[row]]
    return found
