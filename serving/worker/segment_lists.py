"""Segments of whoever asks, and what is popular in each: the rung between personal and popular. Worker side."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from features.segments.rules import ItemValues, Rule, Seen, fulfilled, tests_of
from features.vocabulary import Vocabulary
from serving.worker.attributes import Attributes

FILE = "segments.json"


class SegmentLists:
    """Args:
    rules: as `features.segments.rules` reads them.
    popular: segment -> item row -> how often its members took the item, best first.
    items: item_id -> field -> values, of the fields that rules ask for.
    """

    def __init__(self, rules: Sequence[Rule], popular: Mapping[str, dict[int, float]], items: ItemValues) -> None:
        self.popular = popular
        self._tests = tests_of(rules, items)

    @classmethod
    def load(cls, folder: Path | None, vocabulary: Vocabulary, attributes: Attributes) -> SegmentLists:
        """Those of an artifact; none where it was exported before there were any."""
        if folder is None or not (folder / FILE).exists():
            return cls([], {}, {})
        stored = json.loads((folder / FILE).read_text())
        popular = {name: {int(row): count for row, count in rows} for name, rows in stored["popular"].items()}
        by_row = attributes.of_items(sorted(_fields(stored["rules"])))
        return cls(stored["rules"], popular, {vocabulary.id(row): values for row, values in by_row.items()})

    def of(self, items: Sequence[str], times: Sequence[int], traits: Mapping[str, object], time_us: int) -> list[str]:
        """Names of the segments of whoever has this history, all of it before the moment, and these traits."""
        return fulfilled(self._tests, Seen(items, times, traits, time_us))

    def listed(self) -> set[int]:
        """The item rows that stand in the list of any segment."""
        return {row for rows in self.popular.values() for row in rows}

    def scores(self, segment: str, num_items: int) -> np.ndarray:
        """(N,) float32: how often the segment's members took each item."""
        scores = np.zeros(num_items, dtype=np.float32)
        rows = self.popular[segment]
        scores[list(rows)] = list(rows.values())
        return scores


def _fields(rules: Sequence[Rule]) -> set[str]:
    conditions = [condition for rule in rules for condition in (*rule.get("all", ()), *rule.get("any", ()))]
    return {condition["share_of"]["field"] for condition in conditions if "share_of" in condition}
