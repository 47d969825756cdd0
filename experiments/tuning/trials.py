"""One trial: values are drawn, a model is fitted with them and scored on temporal validation."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from pydantic import ValidationError

from config import params, search_space
from config.command import UserError
from experiments.tuning import mlflow_log as study_record
from experiments.tuning import objectives
from experiments.tuning.study import DEFAULTS, completed, suggest, this_process
from features.feature_files import Features
from features.fit import SplitTables, fit_window, rolling_windows
from training.metrics import geometric_mean
from training.train import FitError, FitResult, fit


def features_of(features: Features, settings: params.Params) -> list[Features]:
    """Features of each window, oldest first, made in memory; for one, those of the validation window as they are.

    Raises:
        UserError: the past is too short for so many.
    """
    if settings.tune.folds == 1:
        return [features]
    tables = SplitTables.read()
    return [fit_window(tables, *window, settings) for window in _windows(tables, settings)]


def refuse_too_many(settings: params.Params) -> None:
    """Before workers begin, which would each fail of it.

    Raises:
        UserError: the past is too short for so many.
    """
    if settings.tune.folds > 1:
        _windows(SplitTables.read(), settings)


def _windows(tables: SplitTables, settings: params.Params) -> list[tuple[int, int]]:
    count = settings.tune.folds
    found = rolling_windows(tables, count)
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


FOLD_STEPS = 100_000  # between the first epochs of two windows, in the steps that a study compares trials at


class OutOfTimeError(Exception):
    """The budget ended while a trial ran: it says nothing of its values."""


@dataclass(frozen=True)
class Search:
    """What all trials of one call share."""

    label: str
    features: Features
    settings: params.Params
    parent: str  # the MLflow run above theirs
    folds: list[Features]  # of each window that a trial is scored on, oldest first

    @classmethod
    def of(cls, label: str, features: Features, settings: params.Params, parent: str) -> Search:
        """A search on the windows that `tune.folds` asks for; `features` are of the validation window."""
        return cls(label, features, settings, parent, features_of(features, settings))

    @property
    def spaces(self) -> dict[str, search_space.Space]:
        return search_space.spaces_around(self.settings.tune.spaces[self.label], self.settings.train.models[self.label])


def run_next(study, search: Search, deadline: float) -> int:
    """Run one more trial to its end, whichever it is; its number.

    Args:
        deadline: seconds since 1970, after which it is given up at its next epoch.
    """
    numbers = []

    def objective(trial) -> list[float]:
        numbers.append(trial.number)
        trial.set_user_attr("process", this_process())
        try:
            return _try(trial, search, deadline)
        except Exception as error:
            trial.set_user_attr("ended", " ".join(str(error).split()))
            raise

    study.optimize(objective, n_trials=1, catch=(FitError, OutOfTimeError, MemoryError, torch.OutOfMemoryError))
    return numbers[0]


def _try(trial, search: Search, deadline: float) -> list[float]:
    settings, aims = search.settings, search.settings.tune.objectives
    values = suggest(trial, search.spaces)
    recipe = recipe_with(values, settings.train.models[search.label])
    tried = recipe | ({"max_steps": settings.tune.max_steps} if settings.tune.max_steps else {})
    with study_record.trial_run(trial, tried, search, gave_up=OutOfTimeError) as run:

        def on_epoch(row: dict, fold: int) -> bool:
            run.log_epoch(row)
            if len(aims) == 1:
                report(trial, row, fold)
            # The values of params.yaml are what all others are held against, so they are measured whatever it takes.
            if DEFAULTS not in trial.user_attrs:
                if len(aims) == 1:  # of several, one that falls behind in accuracy may be ahead in another
                    prune(trial, row)
                comparable = len(aims) == len(search.folds) == 1
                return keep_to(deadline, trial, row, comparable)
            return False

        result = _fitted(tried, search, on_epoch)
        run.log_fit(result)
        values_of = objectives.measure(aims, result, search.folds[-1], settings.train, settings.train.seed)
        beside = {f"objective/{name}": value for name, value in values_of.items()} if len(aims) > 1 else {}
        run.log_metrics({"objective": values_of["accuracy"]} | beside)
    trial.set_user_attr("recipe", recipe)
    trial.set_user_attr("validation", result.validation)
    return list(values_of.values())


def _fitted(recipe: dict, search: Search, on_epoch: Callable[[dict, int], bool]) -> FitResult:
    """The recipe fitted before each window, oldest first; steps count on from window to window."""
    results: list[FitResult] = []
    for fold, features in enumerate(search.folds):
        taken = sum(one.curves[-1]["step"] for one in results if one.curves)

        def shifted(row: dict, fold: int = fold, taken: int = taken) -> bool:
            return on_epoch(row | {"step": row["step"] + taken}, fold)

        results.append(fit(recipe, features, search.settings.train, search.settings.train.seed, shifted))
    return joined(results)


def recipe_with(values: dict, model) -> dict:
    """The model's parameters of params.yaml with these in place of its own.

    Raises:
        FitError: the model refuses them together.
    """
    try:
        return type(model).model_validate(model.model_dump() | values).model_dump()
    except ValidationError as error:
        raise FitError(f"{model.name}: {error.errors()[0]['msg']}") from None


def report(trial, row: dict, fold: int = 0) -> None:
    """Tell the study how the trial does at this epoch of this window; trials are compared at the same of both.

    Optuna's median pruner judges a trial by its best so far, so a later window that is harder than an earlier one
    prunes less, never more.
    """
    scores = {name: value for name, value in row.items() if name.startswith("valid/")}
    if scores:
        trial.report(geometric_mean(scores.values()), fold * FOLD_STEPS + row["epoch"])


def prune(trial, row: dict) -> None:
    """Give a trial up that does worse at this epoch than the median of the trials before it did.

    Raises:
        optuna.TrialPruned: it does.
    """
    import optuna

    if trial.should_prune():
        raise optuna.TrialPruned(f"behind the median at epoch {row['epoch']}")


def keep_to(deadline: float, trial, row: dict, comparable: bool) -> bool:
    """Whether a trial is to end at this epoch, since no time is left, as the best of its study.

    What it has reached by now is the least that its values are worth.

    Args:
        comparable: whether what trials reported epoch by epoch says which is the best.

    Raises:
        OutOfTimeError: no time is left, and it is not the best.
    """
    if time.time() <= deadline:
        return False
    if not comparable or not leads(trial):
        raise OutOfTimeError(f"out of time at epoch {row['epoch']}")
    trial.set_user_attr("cut_short", row["epoch"])
    return True


def leads(trial) -> bool:
    """Whether a running trial has reported more than any that came to an end."""
    running = trial.study.get_trials(deepcopy=False)[trial.number]
    own, *others = (max(one.intermediate_values.values(), default=0.0) for one in [running, *completed(trial.study)])
    return own > max(others, default=0.0)
