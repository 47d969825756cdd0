"""Fit a model on what was known before a cut, score it on what follows at the `valid` cut, and keep the result.

Legend: U users, N item rows.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError
from safetensors.torch import load_file, save_file
from scipy import sparse

from config import params
from config.command import UserError
from config.paths import FITTED
from features.feature_files import Features
from features.sequences import InteractionLog
from training import validation
from training.model_factory import build_model
from training.models.base import Hyperparameters, MatrixModel, Model, ModelError, model_class, parse
from training.models.hybrid import Hybrid, HybridHyperparameters
from training.stacking import fit_stacking
from training.threads import idle_cores

FACTS, WEIGHTS = "fit.json", "weights.safetensors"


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
    deadline: float | None = None,
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
        deadline: seconds since 1970, after which a network's fit ends at the next batch, as if validation stopped it.

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
            from training.network_fit import train_network  # loads Lightning, which takes seconds

            model, chosen, curves = train_network(
                hyperparameters, features, settings, seed, on_epoch, checkpoints, num_devices, deadline
            )
            result = FitResult(model, chosen, 0.0, validation_scores(model, features, settings, seed), curves)
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
    """The fit whose value of `l2`, where there are several, is best on validation."""
    matrix = interaction_matrix(features.past, len(features.vocabulary))
    fits = []
    for l2 in getattr(hyperparameters, "l2", [None]):
        chosen = hyperparameters if l2 is None else hyperparameters.model_copy(update={"l2": [l2]})
        model = build_model(chosen, features)
        assert isinstance(model, MatrixModel)
        model.fit(matrix, seed)
        scores = validation_scores(model, features, settings, seed)
        fits.append(FitResult(model, chosen.model_dump() | ({} if l2 is None else {"l2": l2}), 0.0, scores, []))
    return max(fits, key=lambda one: one.validation.get("next_item", 0.0))


def _fit_hybrid(
    typed: HybridHyperparameters,
    hyperparameters: Mapping[str, Any],
    parts: dict[str, FitResult],
    features: Features,
    settings: params.Train,
    seed: int,
) -> FitResult:
    """The fitted parts as one model. Stacking weights are fitted at `valid`, and used unchanged at a later cut."""
    chosen = typed.model_dump() | {"parts": {label: part.hyperparameters for label, part in parts.items()}}
    model = build_model(chosen, features)
    assert isinstance(model, Hybrid)
    for label, part in model.parts.items():
        part.load_state_dict(parts[label].model.state_dict())
    model.eval()
    if features.description["cut"] == "valid":
        l2, weights, scores = fit_stacking(model, typed.l2, features, settings, seed)
    else:
        l2, weights, scores = hyperparameters["l2"], hyperparameters["weights"], {}
        model.set_weights(weights)
    return FitResult(model, chosen | {"l2": l2, "weights": weights}, 0.0, scores, [])


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


def save_fit(folder: Path, result: FitResult, facts: dict[str, Any]) -> None:
    """Write the weights, and fit.json with `facts` and what is known of the fit."""
    folder.mkdir(parents=True, exist_ok=True)
    state = {name: tensor.contiguous() for name, tensor in result.model.state_dict().items()}
    save_file(state, folder / WEIGHTS)
    facts = facts | {
        "hyperparameters": result.hyperparameters,
        "fit_seconds": round(result.seconds, 3),
        "validation": result.validation,
        "curves": result.curves,
    }
    (folder / FACTS).write_text(json.dumps(facts, indent=1), encoding="utf-8")


def load_facts(label: str, cut: str) -> dict[str, Any]:
    """fit.json of a model at a cut.

    Raises:
        UserError: the model has not been fitted at this cut.
    """
    path = FITTED / label / cut / FACTS
    if not path.exists():
        raise UserError(f"{path} is missing; run `python -m training.train --model {label} --cut {cut}` first")
    return json.loads(path.read_text(encoding="utf-8"))


def hyperparameters_for(label: str, cut: str, settings: params.Params) -> dict[str, Any]:
    """The hyperparameters to fit with: those of params.yaml at `valid`, those that `valid` found at a later cut.

    Raises:
        UserError: params.yaml holds no such model, or it has not been fitted at `valid`.
    """
    if label not in settings.train.models:
        known = ", ".join(settings.train.models)
        raise UserError(f"--model {label}: params.yaml: train.models holds no such model; it holds {known}")
    if cut != "valid":
        return load_facts(label, "valid")["hyperparameters"]
    chosen = settings.train.models[label].model_dump()
    if chosen["name"] == Hybrid.name:
        chosen["parts"] = {part: hyperparameters_for(part, "test", settings) for part in chosen["parts"]}
    return chosen


def load_parts(hyperparameters: dict[str, Any], cut: str, features: Features) -> dict[str, FitResult] | None:
    """The parts of a hybrid as their own stages fitted them at this cut; None for any other model.

    Raises:
        UserError: one of them has not been fitted.
    """
    if hyperparameters["name"] != Hybrid.name:
        return None
    parts = {}
    for label in hyperparameters["parts"]:
        facts = load_facts(label, cut)
        model = build_model(facts["hyperparameters"], features)
        model.load_state_dict(load_file(FITTED / label / cut / WEIGHTS))
        parts[label] = FitResult(model.eval(), facts["hyperparameters"], facts["fit_seconds"], facts["validation"], [])
    return parts
