"""Log a study into MLflow: one run per call of tune, with one nested run per trial."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from config import params
from experiments.tuning import study as studies
from experiments.tuning.study import Search, values_text
from features.feature_files import Features
from training import tracking
from training.tracking import NOTE, TrainingRun, closing

VERB = "experiments.tune"


@contextmanager
def parent_run(study, label: str, features: Features, settings: params.Params) -> Iterator[TrainingRun]:
    """The run of one call, named after the first trial that it starts."""
    before = len(studies.started_trials(study))
    start = f"continues after {before} trials" if before else "starts with the values of params.yaml"
    note = f"Searches parameters of **{label}** on temporal validation of `{settings.dataset}`; {start}."
    tags = _tags(study, label, features, settings) | {"stage": "tune", NOTE: note}
    run = tracking.start_run(settings.dataset, f"tune {label} · from trial {before}", tags, source=VERB)
    with closing(run, features):
        yield run


@contextmanager
def trial_run(trial, configuration: dict, search: Search, gave_up: type[Exception]) -> Iterator[TrainingRun]:
    """The nested run of one trial: KILLED if it was pruned or gave up, FAILED if it could not be fitted."""
    import optuna

    label, settings = search.label, search.settings
    note = f"Trial {trial.number} of **{label}**: {values_text(trial.params)}."
    own = {"stage": "trial", "number": str(trial.number), "mlflow.parentRunId": search.parent, NOTE: note}
    tags = _tags(trial.study, label, search.features, settings) | own
    run = tracking.start_run(settings.dataset, f"{label} · trial {trial.number}", tags, configuration, VERB)
    with closing(run, gave_up=(optuna.TrialPruned, gave_up)):
        try:
            yield run
        except optuna.TrialPruned:
            run.tag(trial="pruned")
            raise
        except BaseException as error:
            run.tag(trial="given up" if isinstance(error, gave_up) else "failed")
            raise
        run.tag(trial="complete")


def close_abandoned_runs(study, dataset: str) -> None:
    """End the open runs of this study whose process was killed.

    A trial's run ends before the study records the trial's end, so a run that is still open then will never end.
    """
    unfinished = ("RUNNING", "WAITING")
    running = {trial.number for trial in study.get_trials(deepcopy=False) if trial.state.name in unfinished}
    for run, tags in tracking.unfinished_runs(dataset, {"study": study.study_name}):
        is_trial = tags["stage"] == "trial"
        alive = int(tags["number"]) in running if is_trial else not studies.has_ended(json.loads(tags["process"]))
        if not alive:
            run.tag(error="its process was killed", **({"trial": "killed"} if is_trial else {}))
            run.close("KILLED")


def log_study(run: TrainingRun, study, objectives: Sequence[str]) -> None:
    """Log the best trial of the whole study so far and the study's plots; with several objectives, the Pareto front too."""
    from optuna.visualization.matplotlib import plot_pareto_front, plot_slice

    best = studies.best_trial(study)
    run.log_params(best.params | {"best_trial": best.number})
    scores = {f"valid/{target}/ndcg_10": value for target, value in best.user_attrs["validation"].items()}
    run.log_metrics({"objective": studies.trial_accuracy(best), "trials": len(studies.started_trials(study))} | scores)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the plots are marked as experimental
        plots: dict[str, Any] = {"study": plot_slice(study, target=studies.trial_accuracy, target_name="objective")}
        if len(objectives) > 1:
            values = dict(zip(objectives, best.values, strict=True))
            run.log_metrics({f"objective/{name}": value for name, value in values.items()})
            run.log_json({"front": front_entries(study, objectives)}, "front")
            plots["front"] = plot_pareto_front(study, target_names=list(objectives))
    for name, axes in plots.items():
        run.log_figure(np.ravel(axes)[0].figure, name)


def front_entries(study, objectives: Sequence[str]) -> list[dict]:
    """Trial, objectives, parameters and all hyperparameters of each trial of the front, the most accurate first."""
    return [
        {
            "trial": trial.number,
            "objectives": dict(zip(objectives, trial.values, strict=True)),
            "parameters": trial.params,
            "hyperparameters": trial.user_attrs["hyperparameters"],
        }
        for trial in studies.pareto_front(study)
    ]


def _tags(study, label: str, features: Features, settings: params.Params) -> dict[str, str]:
    return {
        "label": label,
        "model": settings.train.models[label].name,
        "cut": "valid",
        "study": study.study_name,
        "process": json.dumps(studies.this_process()),
        "split_id": features.description["split_id"],
        "dataset_hash": features.description["dataset_hash"],
    }
