"""One configuration under several seeds: fitted and measured one after the other, then read as one model.

DVC's run cache keeps the results of each seed, so an interrupted call continues, and going back to one of the seeds
costs nothing.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

import pandas as pd

from config import params
from config.paths import EXPERIMENTS
from experiments.evaluation.comparison import MeasuredModel, best_on_validation, read_metrics, validation_score
from experiments.evaluation.measure import measure
from experiments.leaderboard.board import FROZEN
from experiments.orchestration import steps, workspace

KEPT = EXPERIMENTS / "seeds"  # <seed>/metrics and <seed>/rankings
TOGETHER = KEPT / "together"  # the same, of all seeds as one: what compare reads


def fit_and_measure(folder: Path, number: int, env: dict[str, str]) -> str | None:
    """Fit and measure the learned models of a workspace under the seeds 0 .. number - 1, and combine them.

    Baselines that are not learned do not depend on the seed. The workspace is left with the fits of the seed that has
    the median validation score of the registered model: what is gated and deployed must not be the luckiest one.

    Returns:
        The label of the registered model; None if no model is learned.
    """
    settings = params.load(folder / "params.yaml")
    measured = read_metrics(folder / EXPERIMENTS / "metrics", settings.dataset)
    models = settings.train.models
    labels = [model.label for model in measured if model.learned and model.label in models]
    if not labels:
        return None
    parts = {part for label in labels for part in getattr(models[label], "parts", ())}
    pipeline, first = (folder / "dvc.yaml").read_text(encoding="utf-8"), settings.train.seed
    workspace.select_models(folder, [label for label in models if label in labels or label in parts])
    for seed in range(number):
        set_seed(folder, seed)
        steps.step(f"seed {seed}: {', '.join(labels)}", "dvc", ["repro", "evaluate"], folder, env)
        keep(folder, seed, labels)
    (folder / "dvc.yaml").write_text(pipeline, encoding="utf-8")
    set_seed(folder, first)
    steps.step("every model, from the cache", "dvc", ["repro", "evaluate"], folder, env)
    combined = combine(folder, labels, range(number))
    registered = best_on_validation([model for model in combined if model.label in labels], learned=True)
    if registered is not None:  # None if only baselines are learned
        set_seed(folder, median_seed(folder, registered, range(number)))
    steps.step("back to the median seed", "dvc", ["repro", "compare"], folder, env)
    return registered


def set_seed(folder: Path, seed: int) -> None:
    with workspace.edited(folder / "params.yaml") as settings:
        settings["train"]["seed"] = seed


def keep(folder: Path, seed: int, labels: Sequence[str]) -> None:
    """Copy metrics and rankings of these models, which the next seed overwrites."""
    for name, suffix in (("metrics", "json"), ("rankings", "parquet")):
        target = folder / KEPT / str(seed) / name
        target.mkdir(parents=True, exist_ok=True)
        for label in labels:
            shutil.copyfile(folder / EXPERIMENTS / name / f"{label}.{suffix}", target / f"{label}.{suffix}")


def combine(folder: Path, labels: Sequence[str], seeds: Sequence[int]) -> list[MeasuredModel]:
    """Write metrics and rankings of all models to TOGETHER, those of `labels` over all seeds."""
    shutil.rmtree(folder / TOGETHER, ignore_errors=True)
    for name in ("metrics", "rankings"):
        shutil.copytree(folder / EXPERIMENTS / name, folder / TOGETHER / name)
    settings = params.load(folder / "params.yaml")
    items = pd.read_parquet(folder / EXPERIMENTS / "rankings/items.parquet")
    for label in labels:
        facts = [json.loads(_metrics_path(folder, label, seed).read_text(encoding="utf-8")) for seed in seeds]
        tables = {}
        for seed in seeds:
            path = folder / KEPT / str(seed) / "rankings" / f"{label}.parquet"
            shutil.copyfile(path, folder / TOGETHER / "rankings" / f"{label}.{seed}.parquet")
            tables[f"{label}.{seed}.parquet"] = pd.read_parquet(path)
        targets = measure(list(tables.values()), items, settings.seed, settings.evaluate.resamples, settings.evaluate.k)
        whole = as_one(facts, targets) | {"rankings": list(tables)}
        text = json.dumps(whole, indent=1, sort_keys=True)
        (folder / TOGETHER / "metrics" / f"{label}.json").write_text(text, encoding="utf-8")
    return read_metrics(folder / TOGETHER / "metrics", settings.dataset)


def _metrics_path(folder: Path, label: str, seed: int) -> Path:
    return folder / KEPT / str(seed) / "metrics" / f"{label}.json"


def as_one(facts: Sequence[dict], targets: dict) -> dict:
    """The metrics file of one model from the files of each seed; `targets` is measured over all seeds."""
    frozen = [one["targets"][FROZEN] for one in facts if FROZEN in one["targets"]]
    if frozen:  # means without intervals: the rankings that these would need are not kept
        means = {key: fmean(one["metrics"][key]["mean"] for one in frozen)
                 for key, entry in frozen[0]["metrics"].items() if entry.get("mean") is not None}  # fmt: skip
        metrics = {key: {"mean": mean, "low": None, "high": None} for key, mean in means.items()}
        targets = targets | {FROZEN: frozen[0] | {"metrics": metrics}}
    return facts[0] | {
        "targets": targets,
        "seeds": [seed for one in facts for seed in one["seeds"]],
        "fit_seconds": fmean(one["fit_seconds"] for one in facts),
        "validation": {
            target: {key: fmean(one["validation"][target][key] for one in facts) for key in scores}
            for target, scores in facts[0]["validation"].items()
        },
    }


def median_seed(folder: Path, label: str, seeds: Sequence[int]) -> int:
    """The seed with the median validation score of a model; of the two in the middle the lower score."""
    scores = {
        seed: validation_score(
            MeasuredModel.model_validate_json(_metrics_path(folder, label, seed).read_text(encoding="utf-8"))
        )
        for seed in seeds
    }
    return sorted(scores, key=lambda seed: (scores[seed], seed))[(len(scores) - 1) // 2]
