"""Fit a model on what was known before a cut, and score it on what follows at the `valid` cut.

Legend: U users, N item rows.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError
from scipy import sparse

from config import params
from config.command import UserError
from features.feature_files import Features
from features.sequences import InteractionLog
from training import validation
from training.model_factory import build_model
from training.models.base import Hyperparameters, MatrixModel, Model, ModelError
from training.models.hybrid import Hybrid, HybridHyperparameters
from training.models.registry import model_class, parse
from training.stacking import fit_stacking
from training.threads import idle_cores


@dataclass
class FitResult:
    """A fitted model and what is known of the fit."""

    model: Model
    hyperparameters: dict[str, Any]  # as given, with what validation chose and found: the fit at the next cut uses them
    seconds: float
    validation: dict[str, float]  # target -> NDCG@10; empty at other cuts than `valid`
    curves: list[dict]  # one row per epoch


class FitError(UserError):
    """A model cannot be fitted as requested; names the model and the reason."""


@idle_cores()
def fit(
    hyperparameters: Mapping[str, Any],
    features: Features,
    settings: params.Train,
    seed: int,
    on_epoch=None,
    checkpoints: Path | None = None,
    parts: dict[str, FitResult] | None = None,
    num_devices: int = 1,
) -> FitResult:
    """Fit one model on what was known before the cut of `features`.

    Args:
        hyperparameters: of one model in params.yaml, or what a fit at `valid` returned. A hybrid's `parts` map each
            label to the hyperparameters of that part.
        on_epoch: called with each row of the curves while a network trains. If it returns True, the fit ends as it
            would where validation stops it.
        checkpoints: folder from which a network's interrupted fit continues; None keeps nothing.
        parts: the fitted parts of a hybrid at this cut; None fits them here.
        num_devices: how many devices share a network's fit.

    Raises:
        FitError: the model refuses these hyperparameters or this catalog.
    """
    started = time.perf_counter()
    try:
        typed = parse(hyperparameters)
        if isinstance(typed, HybridHyperparameters):
            if parts is None:
                sections = hyperparameters["parts"].items()
                parts = {label: fit(section, features, settings, seed, on_epoch) for label, section in sections}
                started = time.perf_counter()  # the parts' own seconds are added
            result = _fit_hybrid(typed, hyperparameters, parts, features, settings, seed)
        elif model_class(typed.name).learned:
            result = _fit_network(hyperparameters, features, settings, seed, on_epoch, checkpoints, num_devices)
        else:
            result = _fit_matrix_model(typed, features, settings, seed)
    except ModelError as error:
        raise FitError(str(error)) from None
    except ValidationError as error:
        faults = params.describe_errors(error, Path(str(hyperparameters.get("name"))))
        raise FitError("\n".join(faults)) from None
    result.seconds = time.perf_counter() - started + sum(part.seconds for part in (parts or {}).values())
    return result


def _fit_matrix_model(
    hyperparameters: Hyperparameters, features: Features, settings: params.Train, seed: int
) -> FitResult:
    """The fit whose value of `l2`, where several are given, is best on validation."""
    matrix = interaction_matrix(features.past, len(features.vocabulary))
    best: FitResult | None = None
    for l2 in getattr(hyperparameters, "l2", [None]):
        chosen = hyperparameters if l2 is None else hyperparameters.model_copy(update={"l2": [l2]})
        model = build_model(chosen, features)
        assert isinstance(model, MatrixModel)
        model.fit(matrix, seed)
        scores = validation_scores(model, features, settings, seed)
        if best is None or scores["next_item"] > best.validation["next_item"]:
            best = FitResult(model, chosen.model_dump() | ({} if l2 is None else {"l2": l2}), 0.0, scores, [])
    assert best is not None  # a list of l2 has at least one value
    return best


def _fit_network(hyperparameters, features, settings, seed, on_epoch, checkpoints, num_devices) -> FitResult:
    from training.network_fit import train_network

    trained = train_network(hyperparameters, features, settings, seed, on_epoch, checkpoints, num_devices)
    scores = validation_scores(trained.model, features, settings, seed)
    return FitResult(trained.model, trained.hyperparameters, 0.0, scores, trained.curves)


def _fit_hybrid(
    typed: HybridHyperparameters,
    hyperparameters: Mapping[str, Any],
    parts: dict[str, FitResult],
    features: Features,
    settings: params.Train,
    seed: int,
) -> FitResult:
    """The fitted parts under one roof. At `valid` the stacking weights are fitted; at a later cut the given are used."""
    chosen = typed.model_dump() | {"parts": {label: part.hyperparameters for label, part in parts.items()}}
    model = build_model(chosen, features)
    assert isinstance(model, Hybrid)
    for label, part in model.parts.items():
        part.load_state_dict(parts[label].model.state_dict())
    model.eval()
    if features.description["cut"] != "valid":
        model.set_weights(hyperparameters["weights"])
        return FitResult(
            model, chosen | {"l2": hyperparameters["l2"], "weights": hyperparameters["weights"]}, 0.0, {}, []
        )
    found = fit_stacking(model, typed.l2, features, settings, seed)
    return FitResult(model, chosen | {"l2": found.l2, "weights": found.weights}, 0.0, found.validation, [])


def interaction_matrix(log: InteractionLog, num_items: int) -> sparse.csr_matrix:
    """(U, N) 0/1 interactions; column 0, padding, stays empty."""
    kept = log.items != 0
    rows, columns = log.users[kept], log.items[kept]
    shape = (len(log.offsets) - 1, num_items)
    matrix = sparse.csr_matrix((np.ones(len(rows), np.float32), (rows, columns)), shape=shape)
    matrix.data[:] = 1  # a repeated pair counts once
    return matrix


def validation_scores(model: Model, features: Features, settings: params.Train, seed: int) -> dict[str, float]:
    """Mean NDCG@10 by target over a fixed sample of the cases after the `valid` cut; empty at another cut."""
    if features.description["cut"] != "valid":
        return {}
    trends = features.trend_log()
    samples = validation.sampled_cases(features, settings.validation_cases, seed)
    return {
        target: float(validation.ndcg(model, features, cases, trends, settings.eval_batch_size).mean())
        for target, cases in samples.items()
    }
