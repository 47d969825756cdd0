"""One trial: values are suggested, a model is fitted with them, and its objectives are measured on validation.

Shapes: n cases, k list length, D content width.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import replace

import numpy as np
import torch
from pydantic import ValidationError

from config import params, search_space
from experiments.evaluation.measure import diversity
from experiments.tuning.mlflow_log import trial_run
from experiments.tuning.study import DEFAULTS, Search, completed_trials, this_process
from features.encode import Batch
from features.feature_files import Features
from features.sequences import EvaluationCases, batches
from features.vocabulary import PAD
from training import validation
from training.fitting import FitError, FitResult, fit
from training.metrics import geometric_mean
from training.model_factory import search_spaces
from training.models.base import Model, parse
from training.models.ranking import exclude, rank

FOLD_STEPS = 100_000  # offset between the epochs of two folds, in the steps at which Optuna compares trials
LIST_LENGTH = validation.HEADLINE_K
REQUESTS, REPEATS = 20, 5  # distinct requests that are timed, and how often each
UNITS = {"latency": " ms"}


class OutOfTimeError(Exception):
    """The budget ended while a trial ran. Its values may still be good."""


def run_next_trial(study, search: Search, deadline: float) -> int:
    """Run one more trial and return its number, however it ends; after the deadline it stops at its next batch."""
    numbers = []

    def objective(trial) -> list[float]:
        numbers.append(trial.number)
        trial.set_user_attr("process", this_process())
        try:
            return _run_trial(trial, search, deadline)
        except Exception as error:
            trial.set_user_attr("ended", " ".join(str(error).split()))
            raise

    study.optimize(objective, n_trials=1, catch=(FitError, OutOfTimeError, MemoryError, torch.OutOfMemoryError))
    return numbers[0]


def _run_trial(trial, search: Search, deadline: float) -> list[float]:
    import optuna

    settings, objectives = search.settings, search.settings.tune.objectives
    configuration = _with_values(
        _suggest(trial, search_spaces(search.label, settings)), settings.train.models[search.label]
    )
    limited = configuration | ({"max_steps": settings.tune.max_steps} if settings.tune.max_steps else {})
    with trial_run(trial, limited, search, gave_up=OutOfTimeError) as run:

        def on_epoch(row: dict, fold: int) -> bool:
            run.log_epoch(row)
            # The values of params.yaml are what all others are compared with: they are not pruned, and count as far as
            # they came. With several objectives, a trial that falls behind in accuracy may lead in another.
            is_default = DEFAULTS in trial.user_attrs
            if len(objectives) == 1:
                report_epoch(trial, row, fold)
                if not is_default and trial.should_prune():
                    raise optuna.TrialPruned(f"behind the median at epoch {row['epoch']}")
            if time.time() <= deadline:
                return False
            comparable = len(objectives) == len(search.folds) == 1
            if not is_default and not (comparable and _leads(trial)):
                raise OutOfTimeError(f"out of time at epoch {row['epoch']}")
            trial.set_user_attr("cut_short", row["epoch"])  # what it has reached is the least that its values are worth
            return True

        result = _fit_folds(limited, search, on_epoch, deadline)
        run.log_fit(result)
        values = measure_objectives(objectives, result, search.folds[-1], settings.train, settings.train.seed)
        several = {f"objective/{name}": value for name, value in values.items()} if len(objectives) > 1 else {}
        run.log_metrics({"objective": values["accuracy"]} | several)
    trial.set_user_attr("hyperparameters", configuration)
    trial.set_user_attr("validation", result.validation)
    return list(values.values())


def _suggest(trial, spaces: dict[str, search_space.Space]) -> dict:
    values = {}
    for name, space in spaces.items():
        match space:
            case search_space.FloatRange():
                values[name] = trial.suggest_float(name, space.low, space.high, log=space.log)
            case search_space.IntRange():
                values[name] = trial.suggest_int(name, space.low, space.high, log=space.log)
            case search_space.Choice():
                values[name] = trial.suggest_categorical(name, space.values)
    return values


def _with_values(values: dict, model) -> dict:
    """The parameters of params.yaml with the suggested values. Raises FitError if the model refuses them."""
    try:
        return parse(model.model_dump() | values).model_dump()
    except ValidationError as error:
        raise FitError(f"{model.name}: {error.errors()[0]['msg']}") from None


def _fit_folds(
    configuration: dict, search: Search, on_epoch: Callable[[dict, int], bool], deadline: float
) -> FitResult:
    """Fit before each fold's period, oldest first; the steps that are logged continue from fold to fold."""
    results: list[FitResult] = []
    for fold, features in enumerate(search.folds):
        steps = sum(result.curves[-1]["step"] for result in results if result.curves)

        def on_fold_epoch(row: dict, fold: int = fold, steps: int = steps) -> bool:
            return on_epoch(row | {"step": row["step"] + steps}, fold)

        train = search.settings.train
        results.append(fit(configuration, features, train, train.seed, on_fold_epoch, deadline=deadline))
    newest = results[-1]
    if len(results) == 1:
        return newest
    scores = {target: float(np.mean([one.validation[target] for one in results])) for target in newest.validation}
    return replace(newest, seconds=sum(result.seconds for result in results), validation=scores)


def report_epoch(trial, row: dict, fold: int) -> None:
    """Report an epoch's validation score to the study, which compares trials at the same epoch of the same fold."""
    scores = [value for name, value in row.items() if name.startswith("valid/")]
    if scores:
        trial.report(geometric_mean(scores), fold * FOLD_STEPS + row["epoch"])


def _leads(trial) -> bool:
    """Whether a running trial has reported more than every completed one."""
    running = trial.study.get_trials(deepcopy=False)[trial.number]
    reports = [max(one.intermediate_values.values(), default=0.0) for one in completed_trials(trial.study)]
    return max(running.intermediate_values.values(), default=0.0) > max(reports, default=0.0)


def measure_objectives(
    names: Iterable[str], result: FitResult, features: Features, settings: params.Train, seed: int
) -> dict[str, float]:
    """The objectives of a fitted model, in the order of `names`."""
    return {name: OBJECTIVES[name](result, features, settings, seed) for name in names}


def objectives_text(values: dict[str, float]) -> str:
    """`accuracy 0.1234, diversity 0.8000, latency 0.5100 ms`."""
    return ", ".join(f"{name} {value:.4f}{UNITS.get(name, '')}" for name, value in values.items())


def _accuracy(result: FitResult, features: Features, settings: params.Train, seed: int) -> float:
    """Geometric mean of both targets' NDCG@10 on validation."""
    return geometric_mean(result.validation.values())


def _diversity(result: FitResult, features: Features, settings: params.Train, seed: int) -> float:
    """1 - mean cosine of the content of the first 10 of each list, averaged over both targets' validation cases."""
    content = features.item_features
    if not content.any():
        raise FitError("tune.objectives holds diversity, but no item of this dataset has content")
    length = np.linalg.norm(content, axis=1, keepdims=True)
    unit = np.divide(content, length, out=np.zeros_like(content), where=length > 0)
    means = []
    for target_cases in validation.cases(features).values():
        cases = validation.sample(target_cases, settings.early_stopping_cases, seed)
        values = diversity(_lists(result.model, features, cases, settings.eval_batch_size), unit, LIST_LENGTH)
        means.append(float(np.nanmean(values)))
    return float(np.mean(means))


@torch.inference_mode()
def _lists(model: Model, features: Features, cases: EvaluationCases, batch_size: int) -> np.ndarray:
    """(n, k) item rows that the model recommends, -1 where the catalog is exhausted."""
    lists, no_truth = np.empty((len(cases), LIST_LENGTH), dtype=np.int64), torch.empty(2, 0, dtype=torch.int64)
    for rows, batch in _batches(model, features, cases, batch_size):
        lists[rows] = rank(exclude(model.scores(batch), batch.seen), no_truth, LIST_LENGTH)[0].numpy()
    return np.where(lists == PAD, -1, lists)


@torch.inference_mode()
def _latency(result: FitResult, features: Features, settings: params.Train, seed: int) -> float:
    """Median milliseconds to score one request over the whole catalog."""
    model, seconds = result.model, []
    cases = validation.sample(validation.cases(features)["next_item"], REQUESTS, seed)
    for _, batch in _batches(model, features, cases, 1):
        model.scores(batch)  # warm-up: the first call of a shape prepares what later ones reuse
        for _ in range(REPEATS):
            started = time.perf_counter()
            model.scores(batch)
            seconds.append(time.perf_counter() - started)
    return float(np.median(seconds)) * 1000


def _batches(
    model: Model, features: Features, cases: EvaluationCases, batch_size: int
) -> Iterable[tuple[np.ndarray, Batch]]:
    moments = validation.moments(cases, features.description["refresh_minutes"])
    trends = features.trend_log()
    return batches(features.log, cases, trends, model.channels, moments, batch_size, model.max_history)


OBJECTIVES: dict[str, Callable[[FitResult, Features, params.Train, int], float]] = {
    "accuracy": _accuracy,
    "diversity": _diversity,
    "latency": _latency,
}
