"""VERB experiment: tune all that can be tuned on a source, take what is better, fit and judge every model."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from config import params
from config.command import UserError, exits_cleanly
from config.paths import EXPERIMENTS, FEATURES, ROOT, TUNED
from experiments.evaluation.comparison import DEFAULT_SUFFIX
from experiments.orchestration import model_selection, seeds, steps, workspace
from experiments.orchestration.tuning_shares import NOTE, tune
from experiments.tuning.study import parse_minutes, values_text
from features import feature_files

MINUTES = "30"
PRESET = TUNED / "preset.yaml"


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


def keep_defaults(folder: Path, recipes: dict[str, dict]) -> None:
    """Let the workspace fit, beside each of these recipes, the one that it takes the place of."""
    with workspace.edited(folder / "params.yaml") as settings:
        models = settings["train"]["models"]
        models |= {f"{label}{DEFAULT_SUFFIX}": models[label] for label in recipes}
        labels = list(models)
    model_selection.write(folder, labels)


def take_better(folder: Path, found: dict[str, dict], defaults: bool) -> None:
    """Let the workspace fit what tuning found better, and if so asked the default values beside it."""
    better = {label: one["recipe"] for label, one in found.items() if is_better(one)}
    if defaults:
        keep_defaults(folder, better)
    take(folder, better)


def keep(folder: Path, dataset: str, command: str) -> None:
    """The recipes of the models that were tuned, as a preset."""
    settings = params.load(folder / "params.yaml")
    recipes = {label: settings.train.models[label].model_dump() for label in settings.tune.spaces}
    split_id = feature_files.load_features(folder / FEATURES / "valid").description["split_id"]
    seeds.write(folder / PRESET, dataset, split_id, command, recipes)


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
        f"{inside / EXPERIMENTS}/gate.html\n"
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


def options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m experiments.experiment", description=__doc__)
    parser.add_argument("--minutes", default=MINUTES, help="of tuning, all models together (default: %(default)s)")
    parser.add_argument("--preset", help="instead of tuning fit experiments/presets/<preset>.yaml; several with commas")
    parser.add_argument("--workers", type=int, default=1, help="processes that tune at once (default: 1)")
    parser.add_argument("--seeds", type=int, default=1, help="under which networks are fitted (default: 1)")
    parser.add_argument("--defaults", action="store_true", help="fit what was tuned by its default values too")
    workspace.add(parser)
    return parser


def judge(folder: Path, dataset: str, number: int, env: dict[str, str]) -> None:
    """Fit and measure every model, under several seeds if so asked; ask the gate, and publish the results."""
    steps.pipeline(folder, env)
    candidate: list[str] = []
    if number > 1 and (registered := seeds.fit_and_measure(folder, number, env)):
        candidate = ["--model", registered]
        together = ["--out", str(seeds.TOGETHER), "--registered", registered]
        steps.step("compare over the seeds", "experiments.compare", together, folder, env)
    steps.step("gate", "experiments.gate", candidate, folder, env)
    steps.publish(folder, dataset)


@exits_cleanly
def main(argv: list[str] | None = None) -> int:
    arguments = options().parse_args(argv)
    minutes = parse_minutes(arguments.minutes, "MINUTES")
    for name in ("workers", "seeds"):
        if getattr(arguments, name) < 1:
            raise UserError(f"{name.upper()} is {getattr(arguments, name)}; expected at least 1")
    given = list(filter(None, (arguments.preset or "").split(",")))
    folder = workspace.workspace_of(arguments) or workspace.make_simulated()
    seeds.prepare(folder, given)
    found = {}
    env = steps.environment()
    steps.data_and_features(folder, env)
    settings = params.load(folder / "params.yaml")
    if not given:
        tune(folder, settings, minutes, arguments.workers, env)
        found = found_for(folder, list(settings.tune.spaces))
        take_better(folder, found, arguments.defaults)
        keep(folder, settings.dataset, f"make experiment MINUTES={arguments.minutes} WORKERS={arguments.workers}")
    judge(folder, settings.dataset, arguments.seeds, env)
    (folder / NOTE).unlink(missing_ok=True)
    print(report(folder, settings.dataset, found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
