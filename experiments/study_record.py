"""A study in MLflow: one run per call of tune, and below it one nested run per trial."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import params
from experiments import plots
from features.store import Features
from training import tracking
from training.tracked_run import NOTE, TrainingRun

VERB = "experiments.tune"


@contextmanager
def parent_run(study, label: str, features: Features, settings: params.Params) -> Iterator[TrainingRun]:
    """The run of one call; named after the trials that are still to come."""
    begun = sum(trial.state.name != "WAITING" for trial in study.trials)
    first = "from the values of params.yaml" if begun == 0 else f"going on after {begun} trials"
    note = f"Searches parameters of **{label}** on temporal validation of `{settings.dataset}`, {first}."
    tags = _tags(label, features, settings) | {"stage": "tune", "study": study.study_name, NOTE: note}
    run = tracking.open_run(settings.dataset, f"tune {label} · from trial {begun}", tags, verb=VERB)
    try:
        run.log_input(features)
        yield run
    except BaseException as error:
        run.fail(error)
        raise
    run.close()


@contextmanager
def trial_run(
    trial, label: str, tried: dict, features: Features, settings: params.Params, parent: str
) -> Iterator[TrainingRun]:
    """The nested run of one trial: KILLED where it was pruned, FAILED where it could not be fitted."""
    import optuna

    note = f"Trial {trial.number} of **{label}**: {', '.join(f'{k} {v:.4g}' for k, v in trial.params.items())}."
    tags = _tags(label, features, settings) | {"stage": "trial", "mlflow.parentRunId": parent, NOTE: note}
    run = tracking.open_run(settings.dataset, f"{label} · trial {trial.number}", tags, tried, VERB)
    try:
        yield run
    except optuna.TrialPruned as reason:
        run.tag(trial="pruned", error=str(reason))
        run.close("KILLED")
        raise
    except BaseException as error:
        run.tag(trial="failed")
        run.fail(error)
        raise
    run.tag(trial="complete")
    run.close()


def completed(study) -> list:
    """The trials that came to an end, oldest first."""
    return [trial for trial in study.trials if trial.value is not None and trial.state.name == "COMPLETE"]


def log_study(run: TrainingRun, study, space: dict[str, params.Range]) -> None:
    """The best of the whole study so far, under the names that its own run has, and the study's plot."""
    done, best = completed(study), study.best_trial
    run.log_params(best.params | {"best_trial": best.number})
    scores = best.user_attrs.get("validation", {})
    found = {f"valid/{target}/ndcg_10": value for target, value in scores.items()}
    run.log_metrics({"objective": best.value, "trials": len(study.trials)} | found)
    tried = {name: [trial.params[name] for trial in done] for name in space if all(name in t.params for t in done)}
    logarithmic = {name for name, bounds in space.items() if bounds.log}
    figure = plots.of_study([(trial.number, trial.value) for trial in done], tried, logarithmic)
    run.log_figure(figure, "study")


def _tags(label: str, features: Features, settings: params.Params) -> dict[str, str]:
    return {
        "label": label,
        "model": settings.train.models[label].name,
        "cut": "valid",
        "split_id": features.description["split_id"],
        "dataset_hash": features.description["dataset_hash"],
    }
