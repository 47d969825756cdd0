"""VERB experiment: tune all that can be tuned on a source, take what is better, fit and judge every model."""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import params
from command import UserError, exits_cleanly
from experiments import lineup, presets, source_options, steps, workspace
from experiments.budget import minutes_of
from experiments.study import name_of, open_study, seconds_since
from experiments.study_record import values_text
from experiments.study_storage import url_of
from features import store
from params import ROOT

MINUTES = "30"
NOTE = "experiments/out/experiment.json"  # of an experiment that has not come to its end
TUNED = "experiments/out/tuned"
PRESET = f"{TUNED}/preset.yaml"


def prepare(folder: Path) -> None:
    """Let a workspace run every model that train.models holds, and its networks until validation stops them."""
    with workspace.edited(folder / "params.yaml") as settings:
        settings["tune"]["max_steps"] = None
        models = settings["train"]["models"]
        for model in models.values():
            for cap in ("max_steps", "max_epochs"):
                if cap in model:
                    model[cap] = max(model[cap], settings["experiment"][cap])
    lineup.write(folder, list(models))


def begun_at(folder: Path, minutes: float) -> float:
    """When this experiment began, in seconds since 1970: now, or earlier where it was interrupted and goes on."""
    note = folder / NOTE
    if note.exists() and (found := json.loads(note.read_text()))["minutes"] == minutes:
        return found["begun"]
    note.parent.mkdir(parents=True, exist_ok=True)
    begun = time.time()
    note.write_text(json.dumps({"minutes": minutes, "begun": begun}))
    return begun


def left_for(seconds: float, spent: dict[str, float]) -> dict[str, float]:
    """Seconds that each model still has: an equal part of all, less what it has had."""
    part = seconds / max(1, len(spent))
    return {label: max(0.0, part - had) for label, had in spent.items()}


def spent_on(folder: Path, settings: params.Params, begun: float, workers: int) -> dict[str, float]:
    """Seconds that the trials of each model have taken since the experiment began, those that were killed left out."""
    features = store.load(folder / "features/out/valid")
    url = url_of(folder / "experiments/out")
    studies = {label: open_study(name_of(label, features, settings), url, 0) for label in settings.tune.spaces}
    return {label: seconds_since(study, begun) / workers for label, study in studies.items()}


def tune(folder: Path, settings: params.Params, minutes: float, workers: int, env: dict[str, str]) -> None:
    """Spend the minutes, or what an interruption left of them, on the models that have a space."""
    left = left_for(minutes * 60, spent_on(folder, settings, begun_at(folder, minutes), workers))
    for number, (label, seconds) in enumerate(left.items()):
        rest = sum(list(left.values())[number:]) / 60
        title = f"tune {label}: {seconds / 60:.1f} of the {rest:.1f} minutes of tuning that are left"
        # Even a moment is enough to write the best of earlier trials down.
        arguments = ["--model", label, "--minutes", f"{max(seconds, 1) / 60}", "--workers", str(workers)]
        steps.step(title, "experiments.tune", arguments, folder, env)


def found_for(folder: Path, labels: list[str]) -> dict[str, dict]:
    """What tuning wrote of each model."""
    return {label: json.loads((folder / TUNED / f"{label}.json").read_text()) for label in labels}


def is_better(found: dict) -> bool:
    """Whether the best trial beats the values of params.yaml on validation."""
    return found["defaults"] is None or found["objective"] > found["defaults"]


def take(folder: Path, recipes: dict[str, dict]) -> None:
    """Write recipes into the workspace's params.yaml."""
    with workspace.edited(folder / "params.yaml") as settings:
        settings["train"]["models"] |= recipes


def keep(folder: Path, dataset: str, command: str) -> None:
    """The recipes of the models that were tuned, as a preset."""
    settings = params.load(folder / "params.yaml")
    recipes = {label: settings.train.models[label].model_dump() for label in settings.tune.spaces}
    split_id = store.load(folder / "features/out/valid").description["split_id"]
    presets.write(folder / PRESET, dataset, split_id, command, recipes)


def chosen(found: dict[str, dict]) -> str:
    """One line a model: what was chosen, and what it gained on validation."""
    return "\n".join(f"  {label:<12} {_choice(one)}" for label, one in found.items())


def _choice(found: dict) -> str:
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


def closing(folder: Path, dataset: str, tuned: bool) -> str:
    """Where everything lies, and what to do next."""
    inside = folder.relative_to(ROOT)
    kept = f"{inside / PRESET} experiments/presets/{dataset}.yaml"
    keep_it = f"  cp {kept}      keep the recipes; PRESET={dataset} fits them again\n" if tuned else ""
    return (
        f"Products: {inside}; recipes and study plots: {inside / TUNED}; the gate's report: "
        f"{inside}/experiments/out/gate.html\n"
        f"Next:\n"
        f"{keep_it}"
        f"  experiments/results/{dataset}.md      the leaderboard\n"
        f"  make ui      every trial and fit in MLflow: experiment '{dataset}'\n"
        f"  .venv/bin/python -m serving.deploy --dataset {dataset}      serve what the gate promoted"
    )


def report(folder: Path, dataset: str, found: dict[str, dict]) -> str:
    """What a person sees last."""
    parts = [steps.leaderboard(dataset), steps.verdict(folder)]
    if found:
        parts.append(f"Chosen on validation, by the geometric mean of both targets' NDCG@10:\n{chosen(found)}")
    return "\n\n".join(["", *parts, closing(folder, dataset, bool(found))])


@exits_cleanly
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m experiments.experiment", description=__doc__)
    parser.add_argument("--minutes", default=MINUTES, help="of tuning, all models together (default: %(default)s)")
    parser.add_argument("--preset", help="fit the recipes of experiments/presets/<preset>.yaml instead of tuning")
    parser.add_argument("--workers", type=int, default=1, help="processes that tune at once (default: 1)")
    source_options.add(parser)
    arguments = parser.parse_args(argv)
    minutes = minutes_of(arguments.minutes, "MINUTES")
    if arguments.workers < 1:
        raise UserError(f"WORKERS is {arguments.workers}; expected at least 1")
    folder = source_options.workspace_of(arguments) or workspace.make_simulated()
    prepare(folder)
    found = {}
    if arguments.preset:
        take(folder, presets.read(arguments.preset))
    env = steps.environment()
    steps.data_and_features(folder, env)
    settings = params.load(folder / "params.yaml")
    if not arguments.preset:
        tune(folder, settings, minutes, arguments.workers, env)
        found = found_for(folder, list(settings.tune.spaces))
        take(folder, {label: one["recipe"] for label, one in found.items() if is_better(one)})
        keep(folder, settings.dataset, f"make experiment MINUTES={arguments.minutes}")
    steps.pipeline(folder, env)
    steps.step("gate", "experiments.gate", [], folder, env)
    steps.publish(folder, settings.dataset)
    (folder / NOTE).unlink(missing_ok=True)
    print(report(folder, settings.dataset, found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
