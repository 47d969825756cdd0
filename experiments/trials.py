"""One trial: values are drawn, a model is fitted with them and scored on temporal validation."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch
from pydantic import ValidationError

import params
import search_space
from experiments import study_record
from experiments.study import DEFAULTS, suggest, this_process
from features.store import Features
from training.metrics import geometric_mean
from training.train import FitError, fit


class OutOfTimeError(Exception):
    """The budget ended while a trial ran: it says nothing of its values."""


@dataclass(frozen=True)
class Search:
    """What all trials of one call share."""

    label: str
    features: Features
    settings: params.Params
    parent: str  # the MLflow run above theirs

    @property
    def spaces(self) -> dict[str, search_space.Space]:
        return search_space.around(self.settings.tune.spaces[self.label], self.settings.train.models[self.label])


def run_next(study, search: Search, deadline: float) -> int:
    """Run one more trial to its end, whichever it is; its number.

    Args:
        deadline: seconds since 1970, after which it is given up at its next epoch.
    """
    numbers = []

    def objective(trial) -> float:
        numbers.append(trial.number)
        trial.set_user_attr("process", this_process())
        try:
            return _try(trial, search, deadline)
        except Exception as error:
            trial.set_user_attr("ended", " ".join(str(error).split()))
            raise

    study.optimize(objective, n_trials=1, catch=(FitError, OutOfTimeError, MemoryError, torch.OutOfMemoryError))
    return numbers[0]


def _try(trial, search: Search, deadline: float) -> float:
    settings = search.settings
    values = suggest(trial, search.spaces)
    recipe = recipe_with(values, settings.train.models[search.label])
    tried = recipe | ({"max_steps": settings.tune.max_steps} if settings.tune.max_steps else {})
    with study_record.trial_run(trial, tried, search, gave_up=OutOfTimeError) as run:

        def on_epoch(row: dict) -> None:
            run.log_epoch(row)
            report(trial, row)
            # The values of params.yaml are what all others are held against, so they are measured whatever it takes.
            if DEFAULTS not in trial.user_attrs:
                prune(trial, row)
                keep_to(deadline, row)

        result = fit(tried, search.features, settings.train, settings.train.seed, on_epoch)
        run.log_fit(result)
        score = geometric_mean(result.validation.values())
        run.log_metrics({"objective": score})
    trial.set_user_attr("recipe", recipe)
    trial.set_user_attr("validation", result.validation)
    return score


def recipe_with(values: dict, model) -> dict:
    """The model's parameters of params.yaml with these in place of its own.

    Raises:
        FitError: the model refuses them together.
    """
    try:
        return type(model).model_validate(model.model_dump() | values).model_dump()
    except ValidationError as error:
        raise FitError(f"{model.name}: {error.errors()[0]['msg']}") from None


def report(trial, row: dict) -> None:
    """Tell the study how the trial does at this epoch."""
    scores = {name: value for name, value in row.items() if name.startswith("valid/")}
    if scores:
        trial.report(geometric_mean(scores.values()), row["epoch"])


def prune(trial, row: dict) -> None:
    """Give a trial up that does worse at this epoch than the median of the trials before it did.

    Raises:
        optuna.TrialPruned: it does.
    """
    import optuna

    if trial.should_prune():
        raise optuna.TrialPruned(f"behind the median at epoch {row['epoch']}")


def keep_to(deadline: float, row: dict) -> None:
    """Give a trial up for which no time is left.

    Raises:
        OutOfTimeError: none is.
    """
    if time.time() > deadline:
        raise OutOfTimeError(f"out of time at epoch {row['epoch']}")
