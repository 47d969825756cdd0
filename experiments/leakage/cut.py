"""What the audit looks at: the tables of a split, and the features made from them at one cut."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from config import params
from data.columns import EVENT_ID, EVENT_TIME, ITEM, KNOWN_TIME, PART, USER
from data.tables import microseconds, timestamps
from data.times import to_iso
from features.feature_files import Features, cut_time
from features.fit import fit_features
from features.sequences import EvaluationCases, InteractionLog
from training import validation

CASE_TIME = "case time"
SHOWN = (EVENT_ID, USER, ITEM, EVENT_TIME, KNOWN_TIME, PART)  # columns of an event in examples


@dataclass(frozen=True)
class Finding:
    """Rows that break a promise or (`fails` is False) are worth knowing, with the first of them as examples."""

    what: str
    rows: int
    examples: list[dict[str, str]]
    fails: bool = True


@dataclass(frozen=True)
class Outcome:
    """The result of a check: how many rows of which unit it looked at, what it found, and what it measured."""

    rows: int
    unit: str
    findings: list[Finding]
    measured: list[dict[str, str]] = field(default_factory=list)


def outcome(rows: int, unit: str, *findings: Finding) -> Outcome:
    """The result of a check; findings without offending rows are dropped."""
    return Outcome(rows, unit, [finding for finding in findings if finding.rows])


@dataclass(frozen=True)
class AuditedCut:
    """One cut of a split. Checks compare the features with what they compute again from `events`.

    Attributes:
        name: valid, test or full.
        rankings: label -> file of rankings that evaluate wrote, at the test cut.
    """

    name: str
    events: pd.DataFrame
    users: pd.DataFrame
    items: pd.DataFrame
    manifest: dict
    features: Features
    settings: params.Params
    rankings: Mapping[str, Path] = field(default_factory=dict)

    @property
    def start_us(self) -> int:
        """The time of the cut in the split's manifest, in microseconds."""
        return cut_time(self.name, self.manifest)

    @cached_property
    def times(self) -> np.ndarray:
        """(E,) times of `events` in microseconds."""
        return microseconds(self.events[EVENT_TIME])

    @cached_property
    def known(self) -> np.ndarray:
        """(E,) times at which the platform learned of `events`, in microseconds."""
        return microseconds(self.events[KNOWN_TIME])

    @cached_property
    def past(self) -> pd.DataFrame:
        """The events that had happened before the cut and were known at it: all that training may read."""
        return self.events[(self.times < self.start_us) & (self.known <= self.start_us)]

    @cached_property
    def ordered(self) -> pd.DataFrame:
        """The events as a log holds them: by user, then in total order."""
        position = pd.Series(np.arange(len(self.features.users)), index=self.features.users)
        owner = position.reindex(self.events[USER]).fillna(-1).to_numpy()
        order = np.lexsort([self.events[EVENT_ID].to_numpy().astype(str), self.times, owner])
        return self.events.iloc[order]

    @cached_property
    def item_known_from(self) -> pd.Series:
        """Item id -> the first time, in microseconds, at which one of its events had happened and was known."""
        return pd.Series(np.maximum(self.times + 1, self.known), index=self.events[ITEM]).groupby(level=0).min()

    @cached_property
    def refitted(self) -> Features:
        """The features computed again from the past alone: no later event, and no user or item without a past event."""
        users = self.users[self.users[USER].isin(self.past[USER])]
        items = self.items[self.items[ITEM].isin(self.past[ITEM])]
        return fit_features(self.past, users, items, self.start_us, self.settings.featurize, self.settings.seed)

    @cached_property
    def cases(self) -> dict[str, EvaluationCases]:
        """The evaluation cases of both targets."""
        return validation.cases(self.features)

    def finding(self, what: str, rows: pd.DataFrame, fails: bool = True) -> Finding:
        """A finding of these rows; as many examples as `audit.examples`."""
        columns = [name for name in rows.columns if name not in self.events or name in SHOWN]
        first = rows[columns].head(self.settings.audit.examples).to_dict("records")
        return Finding(
            what, len(rows), [{str(name): _text(value) for name, value in row.items()} for row in first], fails
        )

    def item_ids(self, rows: np.ndarray) -> np.ndarray:
        """The ids of item rows."""
        return np.array(["(not in the vocabulary)", *self.features.vocabulary.ids], dtype=object)[rows]

    def log_rows(self, log: InteractionLog, rows: np.ndarray) -> pd.DataFrame:
        """Some rows of a log as events."""
        return self.seen(log.users[rows], None, log.items[rows], log.times[rows], log.known[rows])

    def seen(
        self, users: np.ndarray, case_us: np.ndarray | None, items: np.ndarray, times_us: np.ndarray,
        known_us: np.ndarray | None = None,
    ) -> pd.DataFrame:  # fmt: skip
        """Events of users (rows of the features), and the times at which something read them."""
        table = {USER: np.array(self.features.users, dtype=object)[users], ITEM: self.item_ids(items)}
        times = {CASE_TIME: case_us, EVENT_TIME: times_us, KNOWN_TIME: known_us}
        return pd.DataFrame(table | {name: timestamps(value) for name, value in times.items() if value is not None})


def _text(value: object) -> str:
    if isinstance(value, pd.Timestamp):
        return to_iso(value.value // 1000)
    return f"{value:g}" if isinstance(value, float) else str(value)
