"""Ways to hold events out of the same data: the temporal cut, and those that a diagnostic sets beside it.

No event at or after `test_start` is in any of them. Legend: E events before it, U users, n cases.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd

from config import params
from config.command import UserError
from data.columns import EVENT_TIME, MINUTE, SESSION, USER
from data.time_columns import microseconds
from features import folds
from features.feature_files import Features
from features.folds import Tables
from features.sequences import EvaluationCases, Log, next_item_cases
from training import validation


def session_numbers(events: pd.DataFrame, minutes: int) -> np.ndarray:
    """(E,) session of each event: as the data names it where it names all, else a pause of `minutes` begins one.

    Args:
        events: by user, and in total order within each.
    """
    owners = events.groupby(USER, sort=False).ngroup().to_numpy()
    if SESSION in events and events[SESSION].notna().all():
        return events.groupby([owners, events[SESSION].to_numpy()], sort=False).ngroup().to_numpy()
    times = microseconds(events[EVENT_TIME]).to_numpy()
    pause = np.diff(times, prepend=times[:1]) >= minutes * MINUTE
    return np.cumsum(pause | (np.diff(owners, prepend=-1) != 0))


TEMPORAL = ("next_item", "horizon")
MEANINGS = {
    "next_item": "the temporal cut: fitted before valid_start, asked before each event of the validation window",
    "horizon": "the same fit, asked once at valid_start for each user's new items up to test_start",
    "rolling next_item": "next_item in earlier windows as long as the validation window, each fitted on what lies before it",
    "rolling horizon": "horizon in the same earlier windows",
    "leave last out": "each user's last event, fitted on all other events, later ones of other users included",
    "user k-fold": "events of held-out users from their own earlier ones, fitted on all events of the other users",
    "session k-fold": "events of held-out sessions, fitted on all other sessions, later ones of the same user included",
}


@dataclass(frozen=True)
class Fold:
    """What is learned from, and what is asked after."""

    name: str
    learned: Features  # a fit reads its past, and its trends are those that models see
    asked: Features  # histories are read here
    cases: dict[str, EvaluationCases]  # column of the card -> its cases of this fold


def every(tables: Tables, settings: params.Params) -> Iterator[Fold]:
    """The folds of all protocols, the temporal cut first: a recipe that it finds serves the others."""
    yield from _temporal(tables, settings)
    yield from _leave_last_out(tables, settings)
    yield from _k_fold("user k-fold", _owners(tables), tables, settings)
    yield from _k_fold(
        "session k-fold", session_numbers(tables.events, settings.sensitivity.session_minutes), tables, settings
    )


def _temporal(tables: Tables, settings: params.Params) -> Iterator[Fold]:
    """The validation window, then the windows before it, oldest first."""
    count = settings.sensitivity.rolling_windows
    *earlier, newest = folds.rolling(tables, 1 + count)
    if len(earlier) < count:
        raise UserError(
            f"sensitivity.rolling_windows is {count}; expected at most {len(earlier)}: before a further window lie fewer "
            "events than in it"
        )
    at_valid = folds.at(tables, *newest, settings)
    yield Fold("temporal cut", at_valid, at_valid, _drawn(validation.cases(at_valid), 1, settings))
    for number, window in enumerate(earlier, start=1):
        features = folds.at(tables, *window, settings, cut="test")
        asked = {f"rolling {target}": cases for target, cases in validation.cases(features).items()}
        yield Fold(f"rolling window {number} of {count}", features, features, _drawn(asked, count, settings))


def _leave_last_out(tables: Tables, settings: params.Params) -> Iterator[Fold]:
    held = is_last(_owners(tables))
    yield _held_out("leave last out", "leave last out", held, 1, tables, settings)


def _k_fold(protocol: str, unit: np.ndarray, tables: Tables, settings: params.Params) -> Iterator[Fold]:
    """Each unit of events is held out once."""
    count = settings.sensitivity.folds
    part = parts(unit, count, settings.seed)
    for number in range(count):
        name = f"{protocol}, {number + 1} of {count}"
        yield _held_out(protocol, name, part == number, count, tables, settings)


def _held_out(protocol: str, name: str, held: np.ndarray, count: int, tables: Tables, settings: params.Params) -> Fold:
    learned, asked = folds.of_part(tables, ~held, settings)
    return Fold(name, learned, asked, _drawn({protocol: cases_of(asked.log, held)}, count, settings))


def _drawn(asked: dict[str, EvaluationCases], count: int, settings: params.Params) -> dict[str, EvaluationCases]:
    """A fold's share of the cases that a protocol may have."""
    most = max(1, settings.sensitivity.cases // count)
    return {column: validation.sample(cases, most, settings.seed) for column, cases in asked.items()}


def cases_of(log: Log, held: np.ndarray) -> EvaluationCases:
    """The `next_item` cases of the events of `log` that were held out, (E,) bool."""
    asked = next_item_cases(log, int(log.times.min()), int(log.times.max()) + 1)
    return asked.take(np.flatnonzero(held[asked.event]))


def is_last(owners: np.ndarray) -> np.ndarray:
    """(E,) bool: the last event of a user who has others. `owners` ascend, events of each in total order."""
    last = np.append(np.diff(owners) > 0, True)
    return last & (np.bincount(owners)[owners] > 1)


def parts(unit: np.ndarray, count: int, seed: int) -> np.ndarray:
    """(E,) which of `count` parts each event is in: units stay whole, and the parts hold equally many of them."""
    _, row = np.unique(unit, return_inverse=True)
    return (np.random.default_rng(seed).permutation(row.max() + 1) % count)[row]


def _owners(tables: Tables) -> np.ndarray:
    """(E,) number of each event's user; ascending."""
    return tables.events.groupby("user_id", sort=False).ngroup().to_numpy()
