"""VERB tune: search a model's parameters with Optuna, on temporal validation only; resumes where it stopped."""

from __future__ import annotations

import argparse
import json
import math
import sys
from pathlib import Path

import params
from command import UserError, exits_cleanly
from features import store
from features.store import Features
from training import tracking
from training.train import fit

OUT = Path("experiments/out")


def objective_of(validation: dict[str, float]) -> float:
    """Geometric mean of both targets' NDCG@10: neither can be bought with the other."""
    return math.exp(sum(math.log(value + 1e-6) for value in validation.values()) / len(validation))


def suggest(trial, space: dict[str, params.Range]) -> dict[str, float]:
    """One value per parameter of the space."""
    return {name: trial.suggest_float(name, bounds.low, bounds.high, log=bounds.log) for name, bounds in space.items()}


def open_study(name: str, seed: int):
    """The study of this name in experiments/out/studies.db, made where there is none."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    OUT.mkdir(parents=True, exist_ok=True)
    return optuna.create_study(
        study_name=name,
        storage=f"sqlite:///{(OUT / 'studies.db').resolve()}",
        direction="maximize",
        sampler=optuna.samplers.TPESampler(seed=seed),
        load_if_exists=True,
    )


def tune(label: str, features: Features, settings: params.Params, trials: int):
    """Run trials and return the study; a new study begins with the values of params.yaml."""
    recipe = settings.train.models[label].model_dump()
    space = settings.tune.spaces[label]
    study = open_study(f"{settings.dataset}/{label}/{features.description['split_id']}", settings.seed)
    if not study.trials:
        study.enqueue_trial({name: recipe[name] for name in space})
    parent = tracking.open_run(settings.dataset, f"tune {label}", {"model": label, "stage": "tune"})

    def run(trial) -> float:
        values = suggest(trial, space)
        tried = recipe | values | {"max_steps": settings.tune.max_steps}
        tags = {"model": label, "stage": "trial", "mlflow.parentRunId": parent.run_id}
        nested = tracking.open_run(settings.dataset, f"{label} trial {trial.number}", tags, values)
        try:
            result = fit(tried, features, settings.train, settings.seed, nested.log_epoch)
            nested.log_fit(result)
        except BaseException:
            nested.close("FAILED")
            raise
        score = objective_of(result.validation)
        nested.log_metrics({"objective": score})
        nested.close()
        trial.set_user_attr("recipe", {**tried, "max_steps": recipe["max_steps"]})
        print(f"tune: {label} trial {trial.number}: {score:.4f} with {values}", flush=True)
        return score

    try:
        study.optimize(run, n_trials=trials, timeout=settings.tune.seconds)
        parent.log_metrics({"objective": study.best_value})
    finally:
        parent.close()
    return study


@exits_cleanly
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m experiments.tune", description=__doc__)
    parser.add_argument("--model", help="a label of params.yaml: tune.spaces (default: tune.model)")
    parser.add_argument("--trials", type=int, help="how many more (default: tune.trials)")
    arguments = parser.parse_args(argv)
    settings = params.load()
    label = arguments.model or settings.tune.model
    trials = settings.tune.trials if arguments.trials is None else arguments.trials
    if label not in settings.tune.spaces:
        raise UserError(f"--model {label}: tune.spaces holds {', '.join(settings.tune.spaces)}")
    if trials < 1:
        raise UserError(f"--trials is {trials}; expected at least 1")
    study = tune(label, store.load("features/out/valid"), settings, trials)
    folder = OUT / "tuned"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{label}.json"
    path.write_text(
        json.dumps({"objective": study.best_value, "recipe": study.best_trial.user_attrs["recipe"]}, indent=1)
    )
    first = study.trials[0].value
    against = f"the values of params.yaml reach {first:.4f}" if first is not None else "the first trial failed"
    print(
        f"tune: best of {len(study.trials)} trials {study.best_value:.4f} with {study.best_params}; {against}; "
        f"the recipe lies in {path}, params.yaml is as it was"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
