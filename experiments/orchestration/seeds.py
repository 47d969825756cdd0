"""One recipe under several seeds: fitted and measured one after the other, then read as one model.

DVC's run cache keeps what each seed gave, so that a call that was interrupted goes on, and going back to one of the
seeds costs nothing.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from statistics import fmean

import pandas as pd
import yaml

from config import params
from config.command import UserError
from config.paths import EXPERIMENTS, ROOT
from experiments.evaluation.comparison import best_on_validation, validation_score
from experiments.evaluation.measure import measure
from experiments.evaluation.metrics_files import MeasuredModel, read_metrics
from experiments.orchestration import model_selection, steps
from experiments.orchestration.workspace import edited
from training import provenance

KEPT = EXPERIMENTS / "seeds"  # <seed>/metrics and <seed>/rankings
TOGETHER = KEPT / "together"  # the same, of all seeds as one: what compare reads


def fit_and_measure(folder: Path, number: int, env: dict[str, str]) -> str | None:
    """Fit and measure the learned models of a workspace under the seeds 0 .. number - 1, and put them together.

    Baselines that are no networks do not change with the seed. The workspace is left with the fits of the seed whose validation
    score of the registered model is the median: what is gated and deployed must not be the luckiest one.

    Returns:
        The label of that model; None where none is learned.
    """
    settings = params.load(folder / "params.yaml")
    measured = read_metrics(folder / EXPERIMENTS / "metrics", settings.dataset)
    # Of models that an earlier call fitted, and params.yaml no longer names, the numbers stay as they are.
    labels = [one.label for one in measured if one.learned and one.label in settings.train.models]
    if not labels:
        return None
    whole, first = (folder / "dvc.yaml").read_text(), settings.train.seed
    model_selection.write(folder, _with_parts(labels, settings))
    for seed in range(number):
        take(folder, seed)
        steps.step(f"seed {seed}: {', '.join(labels)}", "dvc", ["repro", "evaluate"], folder, env)
        keep(folder, seed, labels)
    (folder / "dvc.yaml").write_text(whole)
    take(folder, first)
    steps.step("every model, from the cache", "dvc", ["repro", "evaluate"], folder, env)
    found = put_together(folder, labels, range(number))
    registered = best_on_validation([one for one in found if one.label in labels], learned=True)
    if registered is not None:  # None where only baselines are learned
        take(folder, median_seed(folder, registered, range(number)))
    steps.step("back to the median seed", "dvc", ["repro", "compare"], folder, env)
    return registered


def _with_parts(labels: Sequence[str], settings: params.Params) -> list[str]:
    """These models and those that they combine, in the order of params.yaml."""
    models = settings.train.models
    wanted = {*labels, *(part for label in labels for part in getattr(models[label], "parts", ()))}
    return [label for label in models if label in wanted]


def take(folder: Path, seed: int) -> None:
    """Let the fits of a workspace follow this seed."""
    with edited(folder / "params.yaml") as settings:
        settings["train"]["seed"] = seed


def keep(folder: Path, seed: int, labels: Sequence[str]) -> None:
    """Copy what was measured of these models, out of the way of the next seed."""
    for name, suffix in (("metrics", "json"), ("rankings", "parquet")):
        target = folder / KEPT / str(seed) / name
        target.mkdir(parents=True, exist_ok=True)
        for label in labels:
            shutil.copyfile(folder / EXPERIMENTS / name / f"{label}.{suffix}", target / f"{label}.{suffix}")


def put_together(folder: Path, labels: Sequence[str], seeds: Sequence[int]) -> list[MeasuredModel]:
    """Metrics and rankings of all models, those of `labels` over all seeds; lies in TOGETHER."""
    shutil.rmtree(folder / TOGETHER, ignore_errors=True)
    for name in ("metrics", "rankings"):
        shutil.copytree(folder / EXPERIMENTS / name, folder / TOGETHER / name)
    settings = params.load(folder / "params.yaml")
    items = pd.read_parquet(folder / EXPERIMENTS / "rankings/items.parquet")
    for label in labels:
        facts = [json.loads((folder / KEPT / str(seed) / "metrics" / f"{label}.json").read_text()) for seed in seeds]
        tables = {}
        for seed in seeds:
            path = folder / KEPT / str(seed) / "rankings" / f"{label}.parquet"
            shutil.copyfile(path, folder / TOGETHER / "rankings" / f"{label}.{seed}.parquet")
            tables[f"{label}.{seed}.parquet"] = pd.read_parquet(path)
        targets = measure(list(tables.values()), items, settings.seed, settings.evaluate.resamples, settings.evaluate.k)
        whole = as_one(facts, targets) | {"rankings": list(tables)}
        (folder / TOGETHER / "metrics" / f"{label}.json").write_text(json.dumps(whole, indent=1, sort_keys=True))
    return read_metrics(folder / TOGETHER / "metrics", settings.dataset)


def as_one(facts: Sequence[dict], targets: dict) -> dict:
    """The metrics file of one model under several seeds.

    Args:
        facts: that of each seed; the first speaks for what does not depend on it.
        targets: what `measure` says of all their rankings.
    """
    frozen = [one["targets"]["next_item_frozen"] for one in facts if "next_item_frozen" in one["targets"]]
    return facts[0] | {
        "targets": targets | ({"next_item_frozen": _mean_of(frozen)} if frozen else {}),
        "seeds": [seed for one in facts for seed in one["seeds"]],
        "fit_seconds": fmean(one["fit_seconds"] for one in facts),
        "validation": {
            target: {key: fmean(one["validation"][target][key] for one in facts) for key in scores}
            for target, scores in facts[0]["validation"].items()
        },
    }


def _mean_of(measured: Sequence[dict]) -> dict:
    """Means over seeds, without intervals: the rankings that they would need are not kept."""
    return measured[0] | {
        "metrics": {
            key: {"mean": fmean(one["metrics"][key]["mean"] for one in measured), "low": None, "high": None}
            for key, entry in measured[0]["metrics"].items()
            if entry.get("mean") is not None
        }
    }


def median_seed(folder: Path, label: str, seeds: Sequence[int]) -> int:
    """The seed with the median validation score of a model; of the two in the middle the lower score."""
    read = {seed: folder / KEPT / str(seed) / "metrics" / f"{label}.json" for seed in seeds}
    scores = {
        seed: validation_score(MeasuredModel.model_validate_json(path.read_text())) for seed, path in read.items()
    }
    return sorted(scores, key=lambda seed: (scores[seed], seed))[(len(scores) - 1) // 2]


HOME = ROOT / "experiments" / "presets"


def read(name: str) -> dict[str, dict]:
    """The recipes of a preset, by label.

    Raises:
        UserError: there is none of that name; lists those there are.
    """
    path = HOME / f"{name}.yaml"
    known = sorted(one.stem for one in HOME.glob("*.yaml"))
    if name not in known:
        raise UserError(f"PRESET is {name!r}; experiments/presets holds {', '.join(known) or 'none'}")
    return yaml.safe_load(path.read_text())["models"]


def prepare(folder: Path, presets_given: Sequence[str] = ()) -> None:
    """Let a workspace run every model that train.models and presets hold, networks until validation stops them.

    A preset says itself how far its networks go.
    """
    with edited(folder / "params.yaml") as settings:
        settings["tune"]["max_steps"] = None
        models = settings["train"]["models"]
        for model in models.values():
            for cap in ("max_steps", "max_epochs"):
                if cap in model:
                    model[cap] = max(model[cap], settings["experiment"][cap])
        for name in presets_given:
            models |= read(name)
    model_selection.write(folder, list(models))


def found_on(dataset: str) -> list[str]:
    """The presets that were found on a data set, ours and the baselines'."""
    found = {path.stem: yaml.safe_load(path.read_text())["found"]["dataset"] for path in HOME.glob("*.yaml")}
    return sorted(name for name, on in found.items() if on == dataset)


def write(path: Path, dataset: str, split_id: str, command: str, recipes: dict[str, dict]) -> None:
    """Keep recipes with their provenance."""
    found = {
        "dataset": dataset,
        "split_id": split_id,
        "command": command,
        "commit": provenance.commit(),
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump({"found": found, "models": recipes}, sort_keys=False))
