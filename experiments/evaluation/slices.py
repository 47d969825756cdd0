"""Slices of a result: which cases, or which true items, each one keeps.

A slice of cases (cold, warm, history length, activity, segment) keeps whole cases. A slice of items (head, tail, new,
age) keeps of each case's truth only the items of the slice: their ranks stay those of the full ranking, |truth| becomes
the number kept, and a case that keeps none is outside the slice.

Shapes: C cases, T true items of all cases together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from config.paths import INGESTED
from data.tables import read_table
from experiments.evaluation.cases import SEGMENT, Catalog, RankedCases, SeedRankings
from features.feature_files import Features
from features.segment_membership import SegmentInputs, collect_inputs, membership
from features.segment_rules import Rule, describe_rule
from features.sequences import EvaluationCases
from training.metrics import accuracy

# Name -> the least and the first value beyond.
HISTORY = {"history_1_4": (1, 5), "history_5_19": (5, 20), "history_20_99": (20, 100), "history_100_up": (100, np.inf)}
ACTIVITY = {"activity_1": (1, 2), "activity_2_9": (2, 10), "activity_10_49": (10, 50), "activity_50_up": (50, np.inf)}
AGE_DAYS = {
    "item_age_0_6": (0, 7),
    "item_age_7_29": (7, 30),
    "item_age_30_179": (30, 180),
    "item_age_180_up": (180, np.inf),
}

SLICE_DEFINITIONS = {
    "cold": "no event of the user is known at that moment",
    "warm": "at least one event of the user is known at that moment",
    "history": "events of the user known at that moment",
    "activity": "cases of the user in this target",
    "segment": "the user is in the segment at that moment, by its rule and what was known then",
    "head_items": "true items among the 20% of the catalog with the most training events",
    "tail_items": "true items of the other 80% of the catalog",
    "new_items": "true items that first appear after test_start: not in the catalog, so never hit",
    "item_age": "days between the item's first event and test_start",
}


def case_slices(cases: RankedCases) -> dict[str, np.ndarray]:
    """Slice name -> (C,) mask: cold, warm and segments always, a family of ranges if more than one is in use."""
    cold = cases.history_length == 0
    histories, activities = _ranges(cases.history_length, HISTORY), _ranges(cases.activity, ACTIVITY)
    return {"cold": cold, "warm": ~cold} | histories | activities | cases.segments


def item_slices(rankings: SeedRankings, catalog: Catalog) -> dict[str, np.ndarray]:
    """Slice name -> (T,) mask of true items."""
    rows = rankings.truth_rows
    member = (rows >= 0) & catalog.member[rows]
    head = member & catalog.head[rows]
    ages = _ranges(np.where(member, catalog.age_days[rows], np.nan), AGE_DAYS)
    return {"head_items": head, "tail_items": member & ~head, "new_items": ~member} | ages


def _ranges(values: np.ndarray, family: Mapping[str, tuple[float, float]]) -> dict[str, np.ndarray]:
    masks = {name: (values >= low) & (values < high) for name, (low, high) in family.items()}
    return masks if sum(mask.any() for mask in masks.values()) > 1 else {}


def sliced_metrics(
    cases: RankedCases, catalog: Catalog, k: int, metrics: tuple[str, ...]
) -> dict[str, dict[str, np.ndarray]]:
    """Slice name -> metric key -> (C,) values averaged over seeds, NaN outside the slice. Empty slices are left out."""
    each_seed = [_sliced_metrics_of_seed(cases, rankings, catalog, k, metrics) for rankings in cases.seeds]
    return {
        name: {key: np.mean([seed[name][key] for seed in each_seed], axis=0) for key in metrics}
        for name in each_seed[0]
        if not np.isnan(each_seed[0][name][metrics[0]]).all()
    }


def _sliced_metrics_of_seed(
    cases: RankedCases, rankings: SeedRankings, catalog: Catalog, k: int, metrics: tuple[str, ...]
) -> dict[str, dict[str, np.ndarray]]:
    values = accuracy(rankings.truth, [k])
    slices = {
        name: {key: np.where(mask, values[key], np.nan) for key in metrics} for name, mask in case_slices(cases).items()
    }
    for name, mask in item_slices(rankings, catalog).items():
        part = accuracy(rankings.truth.keep(mask), [k])
        slices[name] = {key: part[key] for key in metrics}
    return slices


@dataclass(frozen=True)
class SegmentSlices:
    """Segment rules, and the facts about this dataset's users and items that they need."""

    rules: Sequence[Rule]
    facts: SegmentInputs

    @classmethod
    def of(cls, rules: Sequence[Rule], features: Features, folder: Path = INGESTED) -> SegmentSlices:
        """Read the ingested tables.

        An item that first appears after the cut counts as an event without values, since the model's catalog ends at
        the cut too.

        Raises:
            UserError: a table is missing, or lacks a column that a rule needs.
        """
        users, items = (read_table(folder / f"{name}.parquet", "python -m data.ingest") for name in ("users", "items"))
        return cls(rules, collect_inputs(rules, users, items, features.users, features.vocabulary.ids))

    def column(self, features: Features, cases: EvaluationCases) -> list[list[str]]:
        """The names of each case's segments, in the order of the rules."""
        inside = membership(self.rules, features.log, self.facts, cases.user, cases.time)
        names = np.array([rule["name"] for rule in self.rules], dtype=object)
        combinations, number = np.unique(inside, axis=0, return_inverse=True)  # few, however many cases there are
        lists = [names[row].tolist() for row in combinations]
        return [lists[at] for at in number.ravel()]

    def meanings(self) -> dict[str, str]:
        """Slice name -> its rule in words."""
        return {SEGMENT + rule["name"]: describe_rule(rule) for rule in self.rules}
