"""Read and write what a fit leaves for the next stage: out/training/<label>/<cut>/fit.json and weights.safetensors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

from config import params
from config.command import UserError
from config.paths import FITTED
from features.feature_files import Features
from training.fitting import FitResult
from training.model_factory import build_model
from training.models.hybrid import Hybrid

FACTS, WEIGHTS = "fit.json", "weights.safetensors"


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
    (folder / FACTS).write_text(json.dumps(facts, indent=1))


def load_facts(label: str, cut: str) -> dict[str, Any]:
    """fit.json of a model at a cut.

    Raises:
        UserError: the model has not been fitted at this cut.
    """
    path = FITTED / label / cut / FACTS
    if not path.exists():
        raise UserError(f"{path} is missing; run `python -m training.train --model {label} --cut {cut}` first")
    return json.loads(path.read_text())


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
