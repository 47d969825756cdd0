"""Ways to hold out events: the temporal cut that the platform uses, and others for a diagnostic comparison.

No protocol reads an event at or after `test_start`. Shapes: E events before test_start, n cases.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd

from config import params
from config.command import UserError
from data.columns import EVENT_TIME, MINUTE, SESSION, USER
from data.tables import microseconds
from features.feature_files import Features
from features.fit import SplitTables, fit_subset, fit_window, rolling_windows
from features.sequences import EvaluationCases, next_item_cases
from training import validation
from training.fitting import FitError, fit

TEMPORAL = ["next_item", "horizon"]  # the protocols of the temporal cut
MEANINGS = {
    "next_item": "the temporal cut: fitted before valid_start, queried before each event of the validation period",
    "horizon": "the same fit, queried once at valid_start for each user's new items up to test_start",
    "rolling next_item": "next_item in earlier periods as long as validation, each fitted on what lies before it",
    "rolling horizon": "horizon in the same earlier periods",
    "leave last out": "each user's last event, fitted on all other events, including later ones of other users",
    "user k-fold": "events of held-out users from their own earlier ones, fitted on all events of the other users",
    "session k-fold": "events of held-out sessions, fitted on all other sessions, including later ones of the same user",
}


@dataclass(frozen=True)
class Fold:
    """One fit and the cases that it is evaluated on.

    Attributes:
        fitted: features of the fit; models see its item trends.
        queried: features that hold the histories of the cases.
        cases: protocol -> its cases in this fold.
    """

    name: str
    fitted: Features
    queried: Features
    cases: dict[str, EvaluationCases]


def all_folds(tables: SplitTables, settings: params.Params) -> Iterator[Fold]:
    """The folds of all protocols. The temporal cut comes first: the other folds reuse what its fits have chosen."""
    owners = tables.events.groupby(USER, sort=False).ngroup().to_numpy()  # ascending
    yield from _temporal(tables, settings)
    yield _hold_out("leave last out", "leave last out", is_last_event(owners), 1, tables, settings)
    sessions = session_numbers(tables.events, settings.sensitivity.session_minutes)
    for protocol, unit in (("user k-fold", owners), ("session k-fold", sessions)):
        count = settings.sensitivity.folds
        part = assign_parts(unit, count, settings.seed)
        for number in range(count):
            name = f"{protocol}, {number + 1} of {count}"
            yield _hold_out(protocol, name, part == number, count, tables, settings)


def _temporal(tables: SplitTables, settings: params.Params) -> Iterator[Fold]:
    """The validation period, then the periods before it, oldest first."""
    count = settings.sensitivity.rolling_windows
    *earlier, newest = rolling_windows(tables, 1 + count)
    if len(earlier) < count:
        raise UserError(
            f"sensitivity.rolling_windows is {count}; expected at most {len(earlier)}: before a further period there are "
            "fewer events than in it"
        )
    at_valid = fit_window(tables, *newest, settings)
    yield Fold("temporal cut", at_valid, at_valid, _sample(validation.cases(at_valid), 1, settings))
    for number, period in enumerate(earlier, start=1):
        features = fit_window(tables, *period, settings, cut="test")
        cases = {f"rolling {target}": part for target, part in validation.cases(features).items()}
        yield Fold(f"rolling window {number} of {count}", features, features, _sample(cases, count, settings))


def _hold_out(
    protocol: str, name: str, held: np.ndarray, count: int, tables: SplitTables, settings: params.Params
) -> Fold:
    fitted, queried = fit_subset(tables, ~held, settings)
    log = queried.log
    cases = next_item_cases(log, int(log.times.min()), int(log.times.max()) + 1)
    cases = cases.take(np.flatnonzero(held[cases.event]))  # of the (E,) held-out events
    return Fold(name, fitted, queried, _sample({protocol: cases}, count, settings))


def _sample(cases: dict[str, EvaluationCases], count: int, settings: params.Params) -> dict[str, EvaluationCases]:
    """One of `count` folds' share of the cases that a protocol may have."""
    most = max(1, settings.sensitivity.cases // count)
    return {column: validation.sample(part, most, settings.seed) for column, part in cases.items()}


def is_last_event(owners: np.ndarray) -> np.ndarray:
    """(E,) bool: the last event of a user who has others. `owners` ascend, each user's events are in time order."""
    last = np.append(np.diff(owners) > 0, True)
    return last & (np.bincount(owners)[owners] > 1)


def assign_parts(unit: np.ndarray, count: int, seed: int) -> np.ndarray:
    """(E,) part of each event: units stay whole, and each part holds equally many of them."""
    _, row = np.unique(unit, return_inverse=True)
    return (np.random.default_rng(seed).permutation(row.max() + 1) % count)[row]


def session_numbers(events: pd.DataFrame, minutes: int) -> np.ndarray:
    """(E,) session of each event: the session column if all events have one, else a pause of `minutes` starts a new one.

    Args:
        events: grouped by user, in total order within each user.
    """
    owners = events.groupby(USER, sort=False).ngroup().to_numpy()
    if SESSION in events and events[SESSION].notna().all():
        return events.groupby([owners, events[SESSION].to_numpy()], sort=False).ngroup().to_numpy()
    times = microseconds(events[EVENT_TIME])
    pause = np.diff(times, prepend=times[:1]) >= minutes * MINUTE
    return np.cumsum(pause | (np.diff(owners, prepend=-1) != 0))


def measure_folds(folds: Iterable[Fold], labels: list[str], settings: params.Params) -> dict[str, pd.DataFrame]:
    """Fit every model in every fold. Protocol -> table of its cases: the column `user` and NDCG@10 of each model.

    The first fold chooses the configuration of each model, the other folds reuse it: no protocol chooses parameters on
    its own cases. A model that cannot be fitted in one fold is left out of all.

    Raises:
        UserError: fewer than two models are left.
    """
    configurations = {label: _configuration(label, settings) for label in labels}
    measured: dict[str, list[pd.DataFrame]] = defaultdict(list)
    for fold in folds:
        started = time.perf_counter()
        tables = {protocol: pd.DataFrame({"user": cases.user}) for protocol, cases in fold.cases.items()}
        trends, batch_size = fold.fitted.trend_log(), settings.train.eval_batch_size
        for label, configuration in list(configurations.items()):
            try:
                result = fit(configuration, fold.fitted, settings.train, settings.train.seed)
            except FitError as error:
                print(f"left out {label}: {error}", flush=True)
                del configurations[label]
                continue
            configurations[label] = result.hyperparameters
            for protocol, cases in fold.cases.items():
                tables[protocol][label] = validation.ndcg(result.model, fold.queried, cases, trends, batch_size)
        if len(configurations) < 2:
            raise UserError("sensitivity: fewer than 2 models are left; an order needs at least 2")
        for protocol, table in tables.items():
            measured[protocol].append(table)
        print(f"measured {fold.name} in {time.perf_counter() - started:.0f} s", flush=True)
    return {name: pd.concat(measured[name])[["user", *configurations]] for name in MEANINGS if name in measured}


def _configuration(label: str, settings: params.Params) -> dict:
    """The model's parameters; a hybrid carries those of its parts, so that it can be fitted in every fold."""
    models = settings.train.models
    configuration = models[label].model_dump()
    if "parts" in configuration:
        configuration["parts"] = {part: models[part].model_dump() for part in configuration["parts"]}
    return configuration
