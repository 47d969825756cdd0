"""Choose the models of a workspace: the configured ones, without those that cannot hold its catalog."""

from __future__ import annotations

import json
from pathlib import Path

from config.paths import FEATURES, FITTED
from experiments.orchestration.workspace import edited
from training.model_factory import is_learned


def write(folder: Path, labels: list[str]) -> None:
    """Let the pipeline of a workspace fit, measure and package these models of its params.yaml."""
    with edited(folder / "params.yaml") as settings, edited(folder / "dvc.yaml") as pipeline:
        models = settings["train"]["models"]
        hybrids = [label for label in labels if "parts" in models[label]]
        alone = [label for label in labels if label not in hybrids]
        networks = [label for label in alone if is_learned(models[label]["name"])]
        baselines = [label for label in alone if label not in networks]
        pipeline["vars"] = [
            {"baselines": {"model": baselines}},
            {"networks": networks},
            {"hybrids": hybrids},
            {"ranked": {"model": [*baselines, *networks, *hybrids]}},
        ]
        _fit_baselines(pipeline, baselines)
        _fit_hybrids(pipeline, models, hybrids)
        for stage, chosen in (("baselines", baselines), ("network", networks), ("hybrid", hybrids)):
            if not chosen:
                pipeline["stages"].pop(f"train-{stage}", None)


def leave_out_what_is_too_large(folder: Path) -> list[str]:
    """Take models out whose `max_items` the catalogue exceeds, and a hybrid's parts likewise; why, a line each.

    One model that refuses must not end the pipeline for the others.
    """
    items = json.loads((folder / FEATURES / "test/description.json").read_text())["num_items"]
    with edited(folder / "params.yaml") as settings, edited(folder / "dvc.yaml") as pipeline:
        models = settings["train"]["models"]
        refuse = [label for label, model in models.items() if model.get("max_items", items) < items]
        hybrids = {label: model for label, model in models.items() if "parts" in model}
        for model in hybrids.values():
            model["parts"] = [part for part in model["parts"] if part not in refuse]
        gone = {*refuse, *(label for label, model in hybrids.items() if len(model["parts"]) < 2)}
        asked = next(one["ranked"]["model"] for one in pipeline["vars"] if "ranked" in one)
        for label in gone:
            settings["tune"]["spaces"].pop(label, None)
            if label in hybrids:
                del models[label]  # its parts are too few to be written down
    write(folder, [label for label in asked if label not in gone])
    return [
        f"{label} is left out: {items:,} items exceed its max_items = {models[label]['max_items']:,}"
        for label in asked
        if label in refuse
    ]


def _fit_baselines(pipeline: dict, baselines: list[str]) -> None:
    """Name the baselines in the stage that fits all of them."""
    if stage := pipeline["stages"].get("train-baselines"):
        prefix = "train.models."
        others = [key for key in stage["params"] if not key.startswith(prefix)]
        stage["params"] = others + [f"{prefix}{label}" for label in baselines]
        stage["outs"] = [f"{FITTED}/{label}" for label in baselines]


def _fit_hybrids(pipeline: dict, models: dict, hybrids: list[str]) -> None:
    """Let the stage of the hybrids wait for their parts, and for no other model."""
    if stage := pipeline["stages"].get("train-hybrid"):
        parts = {part for label in hybrids for part in models[label]["parts"]}
        others = [path for path in stage["deps"] if not path.startswith(f"{FITTED}/")]
        stage["deps"] = others + [f"{FITTED}/{part}" for part in sorted(parts)]
