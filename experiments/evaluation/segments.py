"""Which segments each evaluation case is in, as of its moment: a column of the rankings, by the rules of params.yaml."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data.products import INGESTED, read_table
from experiments.evaluation.cases import SEGMENT
from features.segments.facts import Facts, gather
from features.segments.membership import membership
from features.segments.rules import Rule, describe
from features.sequences import Cases
from features.store import Features


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

    def column(self, features: Features, cases: Cases) -> list[list[str]]:
        """The names of each case's segments, in the order of the rules."""
        inside = membership(self.rules, features.log, self.facts, cases.user, cases.time)
        names = np.array([rule["name"] for rule in self.rules], dtype=object)
        kinds, kind = np.unique(inside, axis=0, return_inverse=True)  # few, however many cases there are
        lists = [names[row].tolist() for row in kinds]
        return [lists[number] for number in kind.ravel()]

    def meanings(self) -> dict[str, str]:
        """Slice name -> its rule in words."""
        return {SEGMENT + rule["name"]: describe(rule) for rule in self.rules}
