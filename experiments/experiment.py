"""Tune the models on a source, take hyperparameters that are better, fit and compare every model, run the gate."""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

from config import params
from config.command import UserError, exits_cleanly
from config.paths import EXPERIMENTS, FEATURES, ROOT, TUNED
from data import files
from experiments.evaluation.comparison import DEFAULT_SUFFIX
from experiments.orchestration import seeds, steps, workspace
from experiments.tuning.study import open_study, parse_minutes, storage_url, study_name, values_text
from features import feature_files
from training.model_factory import is_learned

MINUTES = "30"
PRESET = TUNED / "preset.yaml"
NOTE = EXPERIMENTS / "experiment.json"  # of an experiment that is not finished


# --- tuning: the minutes of an experiment are shared among its models


def tune_all(folder: Path, settings: params.Params, minutes: float, workers: int, env: dict[str, str]) -> None:
    """Spend the minutes, or what an interruption left of them, on the models that have a space.

    Models that are not learned come first: the time that they leave goes to the networks.
    """
    start, pool = started_at(folder, minutes), minutes * 60
    labels = sorted(settings.tune.spaces, key=lambda label: _is_network(label, settings))
    for number, label in enumerate(labels):
        share = pool / (len(labels) - number)
        seconds, trials = time_spent(start, label, folder, settings, workers)
        left = max(0.0, share - seconds)
        # Even a moment is enough to write the best of earlier trials.
        limits = ["--minutes", f"{max(left, 1) / 60}", "--workers", str(workers)]
        title = f"tune {label}: {left / 60:.1f} minutes"
        if not _is_network(label, settings):
            most = max(1, settings.experiment.baseline_trials - trials)
            limits += ["--trials", str(most)]
            title += f", {most} trials at most"
        title += f"; {len(labels) - number - 1} more to tune after it"
        steps.step(title, "experiments.tune", ["--model", label, *limits], folder, env)
        seconds, _ = time_spent(start, label, folder, settings, workers)
        # What a network leaves is lost in the last epoch of its trials; what another model leaves is not.
        pool -= share if _is_network(label, settings) else min(seconds, share)


def started_at(folder: Path, minutes: float) -> float:
    """When this experiment started, in seconds since 1970: now, or earlier if it was interrupted and continues."""
    note = folder / NOTE
    if note.exists() and (found := json.loads(note.read_text(encoding="utf-8")))["minutes"] == minutes:
        return found["started"]
    note.parent.mkdir(parents=True, exist_ok=True)
    now = time.time()
    files.write_text(note, json.dumps({"minutes": minutes, "started": now}))
    return now


def time_spent(start: float, label: str, folder: Path, settings: params.Params, workers: int) -> tuple[float, int]:
    """Seconds and number of a model's trials that started after a moment and were completed or pruned."""
    name = study_name(label, feature_files.load_features(folder / FEATURES / "valid"), settings)
    study = open_study(name, storage_url(), 0, objectives=settings.tune.objectives)
    trials = [
        trial
        for trial in study.get_trials(deepcopy=False)
        if trial.state.name in ("COMPLETE", "PRUNED") and trial.datetime_start.timestamp() >= start
    ]
    return sum(trial.duration.total_seconds() for trial in trials) / workers, len(trials)


def _is_network(label: str, settings: params.Params) -> bool:
    return is_learned(settings.train.models[label].name)


# --- the result of tuning


def is_better(found: dict) -> bool:
    """Whether the best trial beats the values of params.yaml on validation."""
    return found["defaults"] is None or found["objective"] > found["defaults"]


def take_better(folder: Path, found: dict[str, dict], defaults: bool) -> None:
    """Let the workspace fit the better hyperparameters that tuning found; with `defaults` also those of params.yaml."""
    better = {label: one["hyperparameters"] for label, one in found.items() if is_better(one)}
    with workspace.edited(folder / "params.yaml") as settings:
        models = settings["train"]["models"]
        if defaults:
            models |= {f"{label}{DEFAULT_SUFFIX}": models[label] for label in better}
        models |= better
        labels = list(models)
    if defaults:
        workspace.select_models(folder, labels)


def write_preset(folder: Path, dataset: str, command: str) -> None:
    """Write the hyperparameters of the models that were tuned as a preset."""
    settings = params.load(folder / "params.yaml")
    models = {label: settings.train.models[label].model_dump() for label in settings.tune.spaces}
    split_id = feature_files.load_features(folder / FEATURES / "valid").description["split_id"]
    workspace.write_preset(folder / PRESET, dataset, split_id, command, models)


def choices_text(found: dict[str, dict]) -> str:
    """One line per model: the chosen values and their gain on validation."""
    return "\n".join(f"  {label:<12} {_choice_text(one)}" for label, one in found.items())


def _choice_text(found: dict) -> str:
    after = f"after {found['trials']} trial{'' if found['trials'] == 1 else 's'}"
    if found["defaults"] is None:
        return f"{found['objective']:.4f} {after}; the default values fail: {values_text(found['parameters'])}"
    if not is_better(found):
        return f"{found['defaults']:.4f} by the default values, which nothing beat {after}"
    gain = found["objective"] / found["defaults"] - 1
    return (
        f"{found['objective']:.4f}, {gain:+.1%} on the default values' {found['defaults']:.4f} {after}: "
        f"{values_text(found['parameters'])}"
    )


def report(folder: Path, dataset: str, found: dict[str, dict]) -> str:
    """The last output: leaderboard, verdict, chosen values, where the files are, and what to do next."""
    inside = folder.relative_to(ROOT)
    parts = [steps.leaderboard(dataset), steps.verdict(folder)]
    keep_it = ""
    if found:
        parts.append(f"Chosen on validation, by the geometric mean of both targets' NDCG@10:\n{choices_text(found)}")
        copy = f"cp {inside / PRESET} experiments/presets/{dataset}.yaml"
        keep_it = f"  {copy}      keep the hyperparameters; PRESET={dataset} fits them again\n"
    parts.append(
        f"Files: {inside}; hyperparameters: {inside / TUNED}; the gate's report: {inside / EXPERIMENTS}/gate.html\n"
        f"Next:\n"
        f"{keep_it}"
        f"  experiments/results/{dataset}.md      the leaderboard\n"
        f"  make ui      every trial and fit in MLflow: experiment '{dataset}'\n"
        f"  .venv/bin/python -m serving.deploy --dataset {dataset}      serve what the gate promoted"
    )
    return "\n\n".join(["", *parts])


def judge(folder: Path, dataset: str, number: int, env: dict[str, str]) -> None:
    """Fit and measure every model, networks under this number of seeds; run the gate, and publish the results."""
    steps.pipeline(folder, env)
    candidate: list[str] = []
    if number > 1 and (registered := seeds.fit_and_measure(folder, number, env)):
        candidate = ["--model", registered]
        combined = ["--out", str(seeds.TOGETHER), "--registered", registered]
        steps.step("compare over the seeds", "experiments.compare", combined, folder, env)
    steps.step("gate", "experiments.gate", candidate, folder, env)
    steps.publish(folder, dataset)


@exits_cleanly
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m experiments.experiment", description=__doc__)
    parser.add_argument("--minutes", default=MINUTES, help="of tuning, all models together (default: %(default)s)")
    parser.add_argument("--preset", help="instead of tuning fit experiments/presets/<preset>.yaml; several with commas")
    parser.add_argument("--workers", type=int, default=1, help="processes that tune at once (default: 1)")
    parser.add_argument("--seeds", type=int, default=1, help="number of seeds of each network (default: 1)")
    parser.add_argument("--defaults", action="store_true", help="also fit tuned models with their default values")
    workspace.add(parser)
    arguments = parser.parse_args(argv)
    minutes = parse_minutes(arguments.minutes, "MINUTES")
    for name in ("workers", "seeds"):
        if getattr(arguments, name) < 1:
            raise UserError(f"{name.upper()} is {getattr(arguments, name)}; expected at least 1")
    presets = list(filter(None, (arguments.preset or "").split(",")))
    folder = workspace.workspace_of(arguments) or workspace.make_simulated()
    workspace.prepare(folder, presets)
    found = {}
    env = steps.environment()
    steps.data_and_features(folder, env)
    settings = params.load(folder / "params.yaml")
    if not presets:
        tune_all(folder, settings, minutes, arguments.workers, env)
        found = {
            label: json.loads((folder / TUNED / f"{label}.json").read_text(encoding="utf-8"))
            for label in settings.tune.spaces
        }
        take_better(folder, found, arguments.defaults)
        write_preset(
            folder, settings.dataset, f"make experiment MINUTES={arguments.minutes} WORKERS={arguments.workers}"
        )
    judge(folder, settings.dataset, arguments.seeds, env)
    (folder / NOTE).unlink(missing_ok=True)
    print(report(folder, settings.dataset, found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
