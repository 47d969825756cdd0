"""The windows that a trial is scored on: the validation window, and where asked for as many of those before it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

import params
from command import UserError
from features import folds
from features.folds import Tables
from features.store import Features
from training.train import FitResult


def features_of(features: Features, settings: params.Params) -> list[Features]:
    """Features of each window, oldest first, made in memory; for one, those of the validation window as they are.

    Raises:
        UserError: the past is too short for so many.
    """
    if settings.tune.folds == 1:
        return [features]
    tables = Tables.read()
    return [folds.at(tables, *window, settings) for window in _windows(tables, settings)]


def refuse_too_many(settings: params.Params) -> None:
    """Before workers begin, which would each fail of it.

    Raises:
        UserError: the past is too short for so many.
    """
    if settings.tune.folds > 1:
        _windows(Tables.read(), settings)


def _windows(tables: Tables, settings: params.Params) -> list[tuple[int, int]]:
    count = settings.tune.folds
    found = folds.rolling(tables, count)
    if len(found) < count:
        raise UserError(
            f"tune.folds is {count}; expected at most {max(1, len(found))}: before a further window lie fewer events "
            "than in it"
        )
    return found


def joined(results: list[FitResult]) -> FitResult:
    """One result of the fits of all windows, oldest first: scores are their means, all else is of the newest."""
    newest = results[-1]
    if len(results) == 1:
        return newest
    scores = {target: float(np.mean([one.validation[target] for one in results])) for target in newest.validation}
    return replace(newest, seconds=sum(one.seconds for one in results), validation=scores)
