"""What a trial is judged by: accuracy, and beside it the diversity of the lists or the time that an answer takes.

Legend: n cases, k list length, N item rows, V content width.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Literal

import numpy as np
import torch

from config import params
from experiments.evaluation.list_metrics import diversity
from features.encode import Batch
from features.feature_files import Features
from features.sequences import EvaluationCases, batches
from features.vocabulary import PAD
from training import validation
from training.metrics import geometric_mean
from training.models.base import Model
from training.models.ranking import exclude, rank
from training.train import FitError, FitResult

DIRECTIONS: dict[str, Literal["maximize", "minimize"]] = {
    "accuracy": "maximize",
    "diversity": "maximize",
    "latency": "minimize",
}
UNITS = {"accuracy": "", "diversity": "", "latency": " ms"}
LIST = validation.HEADLINE_K
REQUESTS, REPEATS = 20, 5  # distinct requests that are timed, and how often each


def measure(names: Iterable[str], result: FitResult, features: Features, settings: params.Train, seed: int) -> dict:
    """The objectives of a fitted model by name, in the order of `names`.

    Raises:
        FitError: diversity is asked for, and the items have no content.
    """
    return {name: MEASURES[name](result, features, settings, seed) for name in names}


def text(values: dict[str, float]) -> str:
    """`accuracy 0.1234, diversity 0.8000, latency 0.5100 ms`."""
    return ", ".join(f"{name} {value:.4f}{UNITS[name]}" for name, value in values.items())


def _accuracy(result: FitResult, features: Features, settings: params.Train, seed: int) -> float:
    """Geometric mean of both targets' NDCG@10 on validation."""
    return geometric_mean(result.validation.values())


def _diversity(result: FitResult, features: Features, settings: params.Train, seed: int) -> float:
    """1 - mean cosine of the content of the first 10 of each list, averaged over both targets' validation cases."""
    content = features.item_features
    if not content.any():
        raise FitError("tune.objectives names diversity, and no item of this data set has content")
    length = np.linalg.norm(content, axis=1, keepdims=True)
    unit = np.divide(content, length, out=np.zeros_like(content), where=length > 0)
    means = []
    for every in validation.cases(features).values():
        cases = validation.sample(every, settings.early_stopping_cases, seed)
        values = diversity(_lists(result.model, features, cases, settings.eval_batch_size), unit, LIST)
        means.append(float(np.nanmean(values)))
    return float(np.mean(means))


@torch.inference_mode()
def _lists(model: Model, features: Features, cases: EvaluationCases, size: int) -> np.ndarray:
    """(n, k) item rows that the model would show, -1 where the catalogue is exhausted."""
    lists, nothing = np.empty((len(cases), LIST), dtype=np.int64), torch.empty(2, 0, dtype=torch.int64)
    for rows, batch in _encoded(model, features, cases, size):
        lists[rows] = rank(exclude(model.scores(batch), batch.seen), nothing, LIST)[0].numpy()
    return np.where(lists == PAD, -1, lists)


@torch.inference_mode()
def _latency(result: FitResult, features: Features, settings: params.Train, seed: int) -> float:
    """Milliseconds that the model takes to score one request over the whole catalogue, the median of several."""
    model, seconds = result.model, []
    for _, batch in _encoded(
        model, features, validation.sample(validation.cases(features)["next_item"], REQUESTS, seed), 1
    ):
        model.scores(batch)  # the first of a shape pays for what the others find ready
        for _ in range(REPEATS):
            begun = time.perf_counter()
            model.scores(batch)
            seconds.append(time.perf_counter() - begun)
    return float(np.median(seconds)) * 1000


def _encoded(model: Model, features: Features, cases: EvaluationCases, size: int) -> Iterable[tuple[np.ndarray, Batch]]:
    at = validation.moments(cases, features.description["refresh_minutes"])
    return batches(features.log, cases, features.trend_log(), model.channels, at, size, model.max_history)


MEASURES: dict[str, Callable[[FitResult, Features, params.Train, int], float]] = {
    "accuracy": _accuracy,
    "diversity": _diversity,
    "latency": _latency,
}
