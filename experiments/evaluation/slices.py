"""Named parts of a result: which cases, or which true items, each slice keeps.

A slice of cases (warm, history length, activity, segment) keeps whole cases. A slice of items (head, tail, new, age)
keeps of each case's truth only the items of the slice: the ranks stay those of the full ranking, |truth|
becomes the number kept, and a case with none left is outside the slice.

Shapes: C cases, T true items.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from config.paths import INGESTED
from data.products import read_table
from experiments.evaluation.cases import SEGMENT, Catalog, Ranked, RankedCases
from features.feature_files import Features
from features.segments.membership import Facts, gather, membership
from features.segments.rules import Rule, describe
from features.sequences import EvaluationCases
from training.metrics import accuracy

HISTORY = {
    "history_1_4": (1, 4),
    "history_5_19": (5, 19),
    "history_20_99": (20, 99),
    "history_100_up": (100, np.inf),
}
ACTIVITY = {
    "activity_1": (1, 1),
    "activity_2_9": (2, 9),
    "activity_10_49": (10, 49),
    "activity_50_up": (50, np.inf),
}
AGE_DAYS = {
    "item_age_0_6": (0, 7),
    "item_age_7_29": (7, 30),
    "item_age_30_179": (30, 180),
    "item_age_180_up": (180, np.inf),
}

DEFINITIONS = {
    "cold": "no event of the user known at that moment",
    "warm": "at least one event of the user known at that moment",
    "history": "events of the user known at that moment",
    "activity": "the user's cases in this target",
    "segment": "the user is in the segment at that moment, by its rule and what was known then",
    "head_items": "true items among the 20% of the catalogue with the most training events",
    "tail_items": "true items of the other 80% of the catalogue",
    "new_items": "true items that first appear after test_start: not in the catalogue, so never hit",
    "item_age": "days between the item's release (or first event) and test_start",
}


def case_slices(cases: RankedCases) -> dict[str, np.ndarray]:
    """(C,) masks by slice name. Cold, warm and segments always; of the others only families with more than one
    part in use."""
    length, activity = cases.history_length, cases.activity
    histories = {name: (length >= low) & (length <= high) for name, (low, high) in HISTORY.items()}
    activities = {name: (activity >= low) & (activity <= high) for name, (low, high) in ACTIVITY.items()}
    return {"cold": length == 0, "warm": length > 0} | _used(histories) | _used(activities) | cases.segments


def item_slices(ranked: Ranked, catalogue: Catalog) -> dict[str, np.ndarray]:
    """(T,) masks over the true items by slice name."""
    known = ranked.truth_rows >= 0
    member = known & catalogue.member[ranked.truth_rows]
    head = member & catalogue.head[ranked.truth_rows]
    age = np.where(member, catalogue.age_days[ranked.truth_rows], np.nan)
    ages = {name: (age >= low) & (age < high) for name, (low, high) in AGE_DAYS.items()}
    return {"head_items": head, "tail_items": member & ~head, "new_items": ~member} | _used(ages)


def sliced(
    cases: RankedCases, catalogue: Catalog, k: int, metrics: tuple[str, ...]
) -> dict[str, dict[str, np.ndarray]]:
    """Per slice and metric key, (C,) values averaged over the seeds, NaN outside the slice. Empty slices are
    left out."""
    each_seed = [_of_seed(cases, ranked, catalogue, k, metrics) for ranked in cases.seeds]
    return {
        name: {key: np.mean([seed[name][key] for seed in each_seed], axis=0) for key in metrics}
        for name in each_seed[0]
        if not np.isnan(each_seed[0][name][metrics[0]]).all()
    }


def _of_seed(
    cases: RankedCases, ranked: Ranked, catalogue: Catalog, k: int, metrics: tuple[str, ...]
) -> dict[str, dict[str, np.ndarray]]:
    whole = accuracy(ranked.truth, [k])
    values = {
        name: {key: np.where(mask, whole[key], np.nan) for key in metrics} for name, mask in case_slices(cases).items()
    }
    for name, mask in item_slices(ranked, catalogue).items():
        part = accuracy(ranked.truth.keep(mask), [k])
        values[name] = {key: part[key] for key in metrics}
    return values


def _used(family: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return family if sum(mask.any() for mask in family.values()) > 1 else {}


@dataclass(frozen=True)
class Segments:
    """Rules, and what they ask of this data set's users and items."""

    rules: Sequence[Rule]
    facts: Facts

    @classmethod
    def of(cls, rules: Sequence[Rule], features: Features, folder: Path = INGESTED) -> Segments:
        """Read the ingested tables.

        An item that appears after the cut counts as an event without values: the model's catalogue ends there too.

        Raises:
            UserError: a table is not there, or lacks a column that a rule asks for.
        """
        users, items = (read_table(folder / f"{name}.parquet", "python -m data.ingest") for name in ("users", "items"))
        return cls(rules, gather(rules, users, items, features.users, features.vocabulary.ids))

    def column(self, features: Features, cases: EvaluationCases) -> list[list[str]]:
        """The names of each case's segments, in the order of the rules."""
        inside = membership(self.rules, features.log, self.facts, cases.user, cases.time)
        names = np.array([rule["name"] for rule in self.rules], dtype=object)
        kinds, kind = np.unique(inside, axis=0, return_inverse=True)  # few, however many cases there are
        lists = [names[row].tolist() for row in kinds]
        return [lists[number] for number in kind.ravel()]

    def meanings(self) -> dict[str, str]:
        """Slice name -> its rule in words."""
        return {SEGMENT + rule["name"]: describe(rule) for rule in self.rules}
