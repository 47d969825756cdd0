"""What an audit looks at: the tables of a split, and what featurize made of them at one cut."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from config import params
from data.columns import EVENT_ID, EVENT_TIME, ITEM, KNOWN_TIME, PART, USER
from data.time_columns import microseconds
from data.times import to_iso
from features.feature_files import Features, cut_time
from features.fit import fit_features
from features.sequences import EvaluationCases, InteractionLog
from features.vocabulary import PAD
from training import validation

Row = dict[str, str]  # column -> text, as a person would look for it


@dataclass(frozen=True)
class Finding:
    """A promise that does not hold; or, where it does not fail the audit, something that a reader should know."""

    what: str
    rows: int  # that offend
    examples: list[Row]  # the first of them
    meaning: str
    remedy: str
    fails: bool = True


@dataclass(frozen=True)
class Outcome:
    """How much a check looked at, what it found, and what it measured besides."""

    rows: int
    unit: str  # what a row is
    findings: list[Finding]
    measured: list[Row] = field(default_factory=list)


@dataclass(frozen=True)
class Cut:
    """One cut of a split. What checks compare with is made anew from `events`, never read from the features."""

    name: str  # valid | test | full
    events: pd.DataFrame
    users: pd.DataFrame
    items: pd.DataFrame
    manifest: dict
    features: Features
    settings: params.Params
    rankings: Mapping[str, Path] = field(default_factory=dict)  # label -> what evaluate wrote, of the test cut

    @property
    def start_us(self) -> int:
        """The moment of the cut, as the split's manifest has it."""
        return cut_time(self.name, self.manifest)

    @cached_property
    def times(self) -> np.ndarray:
        """(E,) microseconds of `events`."""
        return microseconds(self.events[EVENT_TIME])

    @cached_property
    def known(self) -> np.ndarray:
        """(E,) microseconds at which the platform learned of `events`."""
        return microseconds(self.events[KNOWN_TIME])

    @cached_property
    def past(self) -> pd.DataFrame:
        """The events that happened before the cut and were known at it: all that training may read."""
        return self.events[(self.times < self.start_us) & (self.known <= self.start_us)]

    @cached_property
    def ordered(self) -> pd.DataFrame:
        """The events as a log should hold them: by user, then in total order."""
        position = pd.Series(np.arange(len(self.features.users)), index=self.features.users)
        owner = position.reindex(self.events[USER]).fillna(-1).to_numpy()
        order = np.lexsort([self.events[EVENT_ID].to_numpy().astype(str), self.times, owner])
        return self.events.iloc[order]

    @cached_property
    def entered(self) -> pd.Series:
        """Item id -> the first moment, in microseconds, at which an event of it had happened and was known."""
        return pd.Series(np.maximum(self.times + 1, self.known), index=self.events[ITEM]).groupby(level=0).min()

    @cached_property
    def refitted(self) -> Features:
        """What featurize makes where there is nothing but the past: no later event, nobody and nothing of later."""
        users = self.users[self.users[USER].isin(self.past[USER])]
        items = self.items[self.items[ITEM].isin(self.past[ITEM])]
        settings = self.settings
        return fit_features(self.past, users, items, self.start_us, settings.featurize, settings.seed)

    @cached_property
    def cases(self) -> dict[str, EvaluationCases]:
        """The cases of both targets, as an evaluation would meet them."""
        return validation.cases(self.features)

    def user(self, row: int) -> str:
        return self.features.users[row]

    def item(self, row: int) -> str:
        return "(not in the vocabulary)" if row == PAD else self.features.vocabulary.id(row)

    def shown(self, events: pd.DataFrame) -> list[Row]:
        """The first of some events, as a person would look for them."""
        kept = [name for name in (EVENT_ID, USER, ITEM, EVENT_TIME, KNOWN_TIME, PART) if name in events]
        rows = events[kept].head(self.settings.audit.examples).to_dict("records")
        return [{str(name): _text(value) for name, value in row.items()} for row in rows]

    def shown_in(self, log: InteractionLog, rows: np.ndarray) -> list[Row]:
        """The first of some rows of a log."""
        rows = rows[: self.settings.audit.examples]
        return [
            {
                USER: self.user(int(user)),
                ITEM: self.item(int(log.items[row])),
                EVENT_TIME: to_iso(log.times[row]),
                KNOWN_TIME: to_iso(log.known[row]),
            }
            for row, user in zip(rows, log.users[rows], strict=True)
        ]


def _text(value: object) -> str:
    return to_iso(value.value // 1000) if isinstance(value, pd.Timestamp) else str(value)
