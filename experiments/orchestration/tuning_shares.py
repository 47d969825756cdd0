"""How the minutes of an experiment are shared among the models that it tunes, interrupted or not."""

from __future__ import annotations

import json
import time
from pathlib import Path

from config import params
from config.paths import EXPERIMENTS, FEATURES
from experiments.orchestration import steps
from experiments.tuning.study import open_study, storage_url, study_name, trials_ended_since
from features import feature_files
from training.model_factory import is_learned

NOTE = EXPERIMENTS / "experiment.json"  # of an experiment that has not come to its end


def begun_at(folder: Path, minutes: float) -> float:
    """When this experiment began, in seconds since 1970: now, or earlier where it was interrupted and goes on."""
    note = folder / NOTE
    if note.exists() and (found := json.loads(note.read_text()))["minutes"] == minutes:
        return found["begun"]
    note.parent.mkdir(parents=True, exist_ok=True)
    now = time.time()
    note.write_text(json.dumps({"minutes": minutes, "begun": now}))
    return now


def fair_share(pool: float, models: int, had: float) -> float:
    """Seconds that the next of so many models still has: an equal part of the pool, less what it has had."""
    return max(0.0, pool / models - had)


def is_network(label: str, settings: params.Params) -> bool:
    return is_learned(settings.train.models[label].name)


def order_of(settings: params.Params) -> list[str]:
    """The models that have a space, those first that only count: what they leave is the networks'."""
    return sorted(settings.tune.spaces, key=lambda label: is_network(label, settings))


def had_since(start: float, label: str, folder: Path, settings: params.Params, workers: int) -> tuple[float, int]:
    """What a model's study had since a moment: seconds of the trials that were not killed, and their number."""
    name = study_name(label, feature_files.load_features(folder / FEATURES / "valid"), settings)
    study = open_study(name, storage_url(), 0, objectives=settings.tune.objectives)
    ended = trials_ended_since(study, start)
    return sum(trial.duration.total_seconds() for trial in ended) / workers, len(ended)


def tune(folder: Path, settings: params.Params, minutes: float, workers: int, env: dict[str, str]) -> None:
    """Spend the minutes, or what an interruption left of them, on the models that have a space."""
    start, labels, pool = begun_at(folder, minutes), order_of(settings), minutes * 60
    for number, label in enumerate(labels):
        models = len(labels) - number
        seconds, trials = had_since(start, label, folder, settings, workers)
        left = fair_share(pool, models, seconds)
        # Even a moment is enough to write the best of earlier trials down.
        limits = ["--minutes", f"{max(left, 1) / 60}", "--workers", str(workers)]
        told = f"{left / 60:.1f} minutes"
        if not is_network(label, settings):
            most = max(1, settings.experiment.baseline_trials - trials)
            limits += ["--trials", str(most)]
            told += f", {most} trials at most"
        title = f"tune {label}: {told}; {models - 1} more to tune after it"
        steps.step(title, "experiments.tune", ["--model", label, *limits], folder, env)
        # What a network leaves is lost in the last epoch of its trials; what a baseline leaves is not.
        had, _ = had_since(start, label, folder, settings, workers)
        pool -= pool / models if is_network(label, settings) else min(had, pool / models)
