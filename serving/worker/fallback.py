"""Which rung an answer stands on: personalised, segment or popular, and why. Worker side."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from features.segments.rules import ItemValues, Rule, VisibleProfile, compile_rules, matching_rules
from features.vocabulary import Vocabulary
from serving.worker.request import Request
from serving.worker.rerank import Attributes
from serving.worker.users import Person
from training.models.base import Model

PERSONALISED, SEGMENT, POPULAR = "personalised", "segment", "popular"


@dataclass(frozen=True)
class Rung:
    """Where an answer comes from. `segment` is the one whose list it is, on the rung of that name."""

    name: str
    reason: str
    segment: str | None = None


def rung_of(
    model: Model, request: Request, person: Person, events: int, traits: bool, lists: Sequence[str], failed: bool
) -> Rung:
    """The highest rung that can be stood on.

    Args:
        events: of the history, that the model knows the items of.
        traits: whether any trait is known.
        lists: the person's segments for which there is a list, by precedence.
        failed: whether the model could not score this batch.
    """
    if failed:
        return _below("the model failed on this batch", lists)
    if not model.personal:
        return Rung(POPULAR, f"the deployed model ({model.name}) is the same for everybody")
    if events:
        return Rung(PERSONALISED, f"ranked from {events} known event{'s' * (events > 1)} of the history")
    if traits and model.answers_cold():
        return Rung(PERSONALISED, "ranked from the traits that are known; there is no history")
    if person.note:
        return _below(person.note, lists)
    if request.history or person.items:
        return _below("no event of the history is of a known item and before the request's time", lists)
    return _below("the history is empty", lists)


def _below(reason: str, lists: Collection[str]) -> Rung:
    for segment in lists:
        return Rung(SEGMENT, f"{reason}; popular in the segment {segment}", segment)
    return Rung(POPULAR, reason)


SEGMENT_LISTS_FILE = "segments.json"


class SegmentLists:
    """Args:
    rules: as `features.segments.rules` reads them.
    popular: segment -> item row -> how often its members took the item, best first.
    items: item_id -> field -> values, of the fields that rules ask for.
    """

    def __init__(self, rules: Sequence[Rule], popular: Mapping[str, dict[int, float]], items: ItemValues) -> None:
        self.popular = popular
        self._tests = compile_rules(rules, items)

    @classmethod
    def load(cls, folder: Path | None, vocabulary: Vocabulary, attributes: Attributes) -> SegmentLists:
        """Those of an artifact; none where it was exported before there were any."""
        if folder is None or not (folder / SEGMENT_LISTS_FILE).exists():
            return cls([], {}, {})
        stored = json.loads((folder / SEGMENT_LISTS_FILE).read_text())
        popular = {name: {int(row): count for row, count in rows} for name, rows in stored["popular"].items()}
        by_row = attributes.of_items(sorted(_fields(stored["rules"])))
        return cls(stored["rules"], popular, {vocabulary.id(row): values for row, values in by_row.items()})

    def of(self, items: Sequence[str], times: Sequence[int], traits: Mapping[str, object], time_us: int) -> list[str]:
        """Names of the segments of whoever has this history, all of it before the moment, and these traits."""
        return matching_rules(self._tests, VisibleProfile(items, times, traits, time_us))

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
