"""VERB tune: search a model's parameters with Optuna, on temporal validation only; resumes where it stopped."""

from __future__ import annotations

import argparse
import json
import math
import sys
from pathlib import Path

import params
from command import UserError, exits_cleanly
from experiments import study_record
from features import store
from features.store import Features
from training.train import FitError, fit

OUT = Path("experiments/out")


def objective_of(validation: dict[str, float]) -> float:
    """Geometric mean of both targets' NDCG@10: neither can be bought with the other."""
    return math.exp(sum(math.log(value + 1e-6) for value in validation.values()) / len(validation))


def suggest(trial, space: dict[str, params.Range]) -> dict[str, float]:
    """One value per parameter of the space."""
    return {name: trial.suggest_float(name, bounds.low, bounds.high, log=bounds.log) for name, bounds in space.items()}


def open_study(name: str, seed: int):
    """The study of this name in experiments/out/studies.db, made where there is none.

    A study that goes on draws from a seed of its own: the first one again would try the first values again.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    OUT.mkdir(parents=True, exist_ok=True)
    study = optuna.create_study(
        study_name=name,
        storage=f"sqlite:///{(OUT / 'studies.db').resolve()}",
        direction="maximize",
        pruner=optuna.pruners.MedianPruner(),
        load_if_exists=True,
    )
    study.sampler = optuna.samplers.TPESampler(seed=seed + len(study.trials))
    return study


def tune(label: str, features: Features, settings: params.Params, trials: int):
    """Run trials and return the study; a new study begins with the values of params.yaml, an old one goes on.

    Each call is an MLflow run with one nested run per trial. A trial whose model cannot be fitted fails and the
    study goes on; one that falls behind the median of the trials before it, epoch for epoch, is pruned.

    Raises:
        UserError: no trial of the study has come to an end.
    """
    study = open_study(f"{settings.dataset}/{label}/{features.description['split_id']}", settings.seed)
    if not study.trials:
        recipe = settings.train.models[label].model_dump()
        study.enqueue_trial({name: recipe[name] for name in settings.tune.spaces[label]})
    with study_record.parent_run(study, label, features, settings) as parent:
        study.optimize(
            lambda trial: _try(trial, label, features, settings, parent.run_id),
            n_trials=trials,
            timeout=settings.tune.seconds,
            catch=(FitError,),
        )
        if not study_record.completed(study):
            raise UserError(f"tune: none of {len(study.trials)} trials came to an end; the UI shows each one's error")
        study_record.log_study(parent, study, settings.tune.spaces[label])
    return study


def _try(trial, label: str, features: Features, settings: params.Params, parent: str) -> float:
    recipe = settings.train.models[label].model_dump()
    values = suggest(trial, settings.tune.spaces[label])
    tried = recipe | values | {"max_steps": settings.tune.max_steps}
    with study_record.trial_run(trial, label, tried, features, settings, parent) as run:

        def on_epoch(row: dict) -> None:
            run.log_epoch(row)
            prune(trial, row)

        result = fit(tried, features, settings.train, settings.seed, on_epoch)
        run.log_fit(result)
        score = objective_of(result.validation)
        run.log_metrics({"objective": score})
    trial.set_user_attr("recipe", {**tried, "max_steps": recipe["max_steps"]})
    trial.set_user_attr("validation", result.validation)
    print(f"tune: {label} trial {trial.number}: {score:.4f} with {values}", flush=True)
    return score


def prune(trial, row: dict) -> None:
    """Give a trial up that does worse at this epoch than the median of the trials before it did.

    Raises:
        optuna.TrialPruned: it does.
    """
    import optuna

    scores = {name: value for name, value in row.items() if name.startswith("valid/")}
    if scores:
        trial.report(objective_of(scores), row["epoch"])
        if trial.should_prune():
            raise optuna.TrialPruned(f"behind the median at epoch {row['epoch']}")


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
