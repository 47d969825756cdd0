"""STAGE train: fit one model at one cut. At `valid` the recipe is found; at `test` it is followed."""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors.torch import load_file, save_file
from scipy import sparse

from config import params
from config.command import UserError, exits_cleanly
from config.paths import CHECKPOINTS, FEATURES, FITTED
from features import feature_files
from features.feature_files import Features
from features.sequences import Log
from training import distributed, tracking
from training import validation as validation_module
from training.models.base import MatrixModel, Model, ModelError, Sizes
from training.models.hybrid import Hybrid
from training.models.registry import build


@dataclass
class FitResult:
    """A fitted model and what is known of the fit."""

    model: Model
    recipe: dict  # the parameters that were chosen, for the fit at the next cut
    seconds: float
    validation: dict[str, float]  # target -> NDCG@10; empty at the test cut
    curves: list[dict]  # one row per validation pass


class FitError(UserError):
    """A model cannot be fitted as asked; names the model and the reason."""


def sizes_of(features: Features) -> Sizes:
    """What a model must know of the features' widths."""
    description = features.description
    return Sizes(
        num_items=description["num_items"],
        content_width=features.item_features.shape[1],
        trait_sizes=description["trait_sizes"],
        context_sizes=description["context_sizes"],
        channels=description["channels"],
    )


def matrix_of(log: Log, num_items: int) -> sparse.csr_matrix:
    """(U, N) 0/1 interactions; row 0 of the items, padding, stays empty."""
    kept = log.items != 0
    rows, columns = log.users[kept], log.items[kept]
    shape = (len(log.offsets) - 1, num_items)
    matrix = sparse.csr_matrix((np.ones(len(rows), np.float32), (rows, columns)), shape=shape)
    matrix.data[:] = 1  # a repeated pair counts once
    return matrix


def candidates(recipe: dict) -> list[dict]:
    """The parameter sets that a counted model chooses from: `l2` may list several."""
    if isinstance(recipe.get("l2"), list):
        return [recipe | {"l2": value} for value in recipe["l2"]]
    return [recipe]


def fit(
    recipe: dict,
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
        recipe: parameters of one model of params.yaml, or the recipe that `valid` found.
        on_epoch: called with each row of the curves while a learned model trains; where it says True, the fit ends as
            it would where validation stops it.
        checkpoints: folder from which a learned model's fit goes on if it was killed; None keeps nothing.
        parts: those of a hybrid, fitted at this cut; None fits them here.
        num_devices: how many share a learned model's fit.

    Raises:
        FitError: the model refuses these parameters or this catalogue.
    """
    begun = time.perf_counter()
    try:
        if recipe["name"] == Hybrid.name:
            from training.stacking import fit_hybrid

            if parts is None:
                asked = recipe["parts"].items()
                parts = {label: fit(part, features, settings, seed, on_epoch) for label, part in asked}
                recipe = recipe | {"parts": {label: part.recipe for label, part in parts.items()}}
            return fit_hybrid(recipe, parts, features, settings, seed)
        if build_is_learned(recipe):
            from training.network_fit import fit_learned

            return fit_learned(recipe, features, settings, seed, on_epoch, checkpoints, num_devices)
        return _fit_matrix_model(recipe, features, settings, seed, begun)
    except ModelError as error:
        raise FitError(str(error)) from None


def build_is_learned(recipe: dict) -> bool:
    """Whether a recipe names a model that is trained by gradient."""
    from training.models.registry import MODELS

    return recipe["name"] in MODELS and MODELS[recipe["name"]].learned


def _fit_matrix_model(recipe, features, settings, seed, begun) -> FitResult:
    matrix = matrix_of(features.past, len(features.vocabulary))
    best: tuple[float, MatrixModel, dict, dict] | None = None
    for chosen in candidates(recipe):
        model = build(chosen, sizes_of(features))
        assert isinstance(model, MatrixModel)
        model.fit(matrix, seed)
        scores = validation_scores(model, features, settings, seed) if features.description["cut"] == "valid" else {}
        if best is None or scores["next_item"] > best[0]:
            best = scores.get("next_item", 0.0), model, chosen, scores
    assert best is not None  # params.py wants at least one value of l2
    _, model, chosen, scores = best
    return FitResult(model, chosen, time.perf_counter() - begun, scores, [])


def validation_scores(model: Model, features: Features, settings: params.Train, seed: int) -> dict[str, float]:
    """Mean NDCG@10 by target over a fixed sample of the cases after the cut."""
    trends = features.trend_log()
    scores = {}
    for target, every in validation_module.cases(features).items():
        chosen = validation_module.sample(every, settings.validation_cases, seed)
        scores[target] = float(validation_module.ndcg(model, features, chosen, trends, settings.eval_batch_size).mean())
    return scores


def recipe_for(label: str, cut: str, settings: params.Params) -> dict:
    """Parameters to fit with: those of params.yaml at `valid`, those that `valid` found at `test`."""
    if label not in settings.train.models:
        known = ", ".join(settings.train.models)
        raise UserError(f"--model {label}: params.yaml: train.models holds no such model; it holds {known}")
    if cut == "valid":
        recipe = settings.train.models[label].model_dump()
        if recipe["name"] == Hybrid.name:
            recipe["parts"] = {part: recipe_for(part, "test", settings) for part in recipe["parts"]}
        return recipe
    found = FITTED / label / "valid" / "fit.json"
    if not found.exists():
        raise UserError(f"{found} is missing; run `python -m training.train --model {label} --cut valid` first")
    return json.loads(found.read_text())["recipe"]


def fitted_parts(recipe: dict, cut: str, features: Features) -> dict[str, FitResult] | None:
    """The parts of a hybrid as their own stages fitted them at this cut; None for any other model.

    Raises:
        UserError: one of them has not been fitted.
    """
    if recipe["name"] != Hybrid.name:
        return None
    parts = {}
    for label in recipe["parts"]:
        folder = FITTED / label / cut
        if not (folder / "fit.json").exists():
            raise UserError(f"{folder} is missing; run `python -m training.train --model {label} --cut {cut}` first")
        facts = json.loads((folder / "fit.json").read_text())
        model = build(facts["recipe"], sizes_of(features))
        model.load_state_dict(load_file(folder / "weights.safetensors"))
        parts[label] = FitResult(model.eval(), facts["recipe"], facts["fit_seconds"], facts["validation"], [])
    return parts


def write(folder: Path, result: FitResult, facts: dict) -> None:
    """Weights and fit.json: everything that the next stage needs."""
    folder.mkdir(parents=True, exist_ok=True)
    state = {name: tensor.contiguous() for name, tensor in result.model.state_dict().items()}
    save_file(state, folder / "weights.safetensors")
    facts = facts | {
        "recipe": result.recipe,
        "fit_seconds": round(result.seconds, 3),
        "validation": result.validation,
        "curves": result.curves,
    }
    (folder / "fit.json").write_text(json.dumps(facts, indent=1))


@exits_cleanly
def main(argv: list[str] | None = None) -> int:
    told = (
        f"{distributed.VARIABLE}=2 shares each step of a network's fit between two processes: GPUs where there are any."
    )
    parser = argparse.ArgumentParser(description=__doc__, epilog=told)
    parser.add_argument("--model", required=True, help="a label of params.yaml: train.models")
    parser.add_argument("--cut", choices=("valid", "test"), required=True)
    arguments = parser.parse_args(argv)
    settings = params.load()
    recipe = recipe_for(arguments.model, arguments.cut, settings)
    features = feature_files.load(FEATURES / arguments.cut)
    with tracking.training_run(arguments.model, recipe, features, settings) as run:
        parts = fitted_parts(recipe, arguments.cut, features)
        kept, number = CHECKPOINTS, distributed.stated() if build_is_learned(recipe) and parts is None else 1
        result = fit(recipe, features, settings.train, settings.train.seed, run.log_epoch, kept, parts, number)
        run.tag(devices=str(number))
        run.log_fit(result)
    folder = FITTED / arguments.model / arguments.cut
    write(
        folder,
        result,
        {"label": arguments.model, "cut": arguments.cut, "run_id": run.run_id, "seed": settings.train.seed},
    )
    scores = " ".join(f"{target} {value:.4f}" for target, value in result.validation.items())
    print(f"train: {arguments.model} at {arguments.cut} in {result.seconds:.1f} s {scores} -> {folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
