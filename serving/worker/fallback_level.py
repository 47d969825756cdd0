"""Choose the fallback level of a response: personalized, popular in a segment, or popular. Worker side."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from features.segment_rules import ItemValues, Rule, VisibleProfile, compile_rules, matching_rules
from features.vocabulary import Vocabulary
from serving.worker.request import Request
from serving.worker.rerank import ItemAttributes
from serving.worker.users import User
from training.models.base import Model

PERSONALIZED, SEGMENT, POPULAR = "personalized", "segment", "popular"
SEGMENTS_FILE = "segments.json"


@dataclass(frozen=True)
class FallbackLevel:
    """Where a response comes from, and why. `segment`: the one with this popular list."""

    name: str
    reason: str
    segment: str | None = None


def choose_level(
    model: Model, request: Request, user: User, num_events: int, has_traits: bool, segments: Sequence[str], failed: bool
) -> FallbackLevel:
    """The best level that is possible for a request.

    Args:
        num_events: events of the history with items that the model knows.
        segments: the user's segments that have a popular list, by precedence.
        failed: whether the model could not score this batch.
    """
    if failed:
        return _below_personalized("the model failed on this batch", segments)
    if not model.personal:
        return FallbackLevel(POPULAR, f"the deployed model ({model.name}) is the same for everybody")
    if num_events:
        events = f"{num_events} known event{'s' * (num_events > 1)}"
        return FallbackLevel(PERSONALIZED, f"ranked from {events} of the history")
    if has_traits and model.personalizes_cold_users():
        return FallbackLevel(PERSONALIZED, "ranked from the known traits; there is no history")
    if user.reason:
        return _below_personalized(user.reason, segments)
    if request.history or user.items:
        return _below_personalized("no event of the history has a known item and a time before the request's", segments)
    return _below_personalized("the history is empty", segments)


def _below_personalized(reason: str, segments: Sequence[str]) -> FallbackLevel:
    if segments:
        return FallbackLevel(SEGMENT, f"{reason}; popular in the segment {segments[0]}", segments[0])
    return FallbackLevel(POPULAR, reason)


class SegmentLists:
    """The segments of a user, and what is popular in each.

    Args:
        rules: as `features.segment_rules` reads them.
        popular: segment -> item row -> how often its members took the item, best first.
        items: item_id -> field -> values, for the fields that rules read.
    """

    def __init__(self, rules: Sequence[Rule], popular: Mapping[str, dict[int, float]], items: ItemValues) -> None:
        self.popular = popular
        self._tests = compile_rules(rules, items)

    @classmethod
    def load(cls, folder: Path | None, vocabulary: Vocabulary, attributes: ItemAttributes) -> SegmentLists:
        """Those of an artifact; none without a folder."""
        if folder is None:
            return cls([], {}, {})
        stored = json.loads((folder / SEGMENTS_FILE).read_text(encoding="utf-8"))
        popular = {name: {int(row): count for row, count in rows} for name, rows in stored["popular"].items()}
        conditions = [one for rule in stored["rules"] for one in (*rule.get("all", ()), *rule.get("any", ()))]
        fields = {condition["share_of"]["field"] for condition in conditions if "share_of" in condition}
        by_row = attributes.by_item(sorted(fields))
        return cls(stored["rules"], popular, {vocabulary.id(row): values for row, values in by_row.items()})

    def of_user(self, user: User, request: Request) -> list[str]:
        """Names of the segments that a user belongs to at the time of a request, by precedence."""
        traits = {**user.traits, **request.context}
        return matching_rules(self._tests, VisibleProfile(user.items, user.times, traits, request.time_us))

    def listed_items(self) -> set[int]:
        """Item rows in the list of any segment."""
        return {row for rows in self.popular.values() for row in rows}

    def scores(self, segment: str, num_items: int) -> np.ndarray:
        """(N,) float32: how often the segment's members took each item."""
        scores = np.zeros(num_items, dtype=np.float32)
        rows = self.popular[segment]
        scores[list(rows)] = list(rows.values())
        return scores
