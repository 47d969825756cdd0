"""Log a study into MLflow: one run per call of tune, with one nested run per trial."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from config import params
from config.search_space import Choice, Space
from experiments.tuning.study import (
    Search,
    best_trial,
    completed_trials,
    has_ended,
    pareto_front,
    started_trials,
    this_process,
    trial_accuracy,
    values_text,
)
from features.feature_files import Features
from training import tracking
from training.plots import BLUE, GREY, ORANGE, panels
from training.tracking import NOTE, TrainingRun, closing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

VERB = "experiments.tune"


@contextmanager
def parent_run(study, label: str, features: Features, settings: params.Params) -> Iterator[TrainingRun]:
    """The run of one call, named after the first trial that it starts."""
    before = len(started_trials(study))
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
        alive = int(tags["number"]) in running if is_trial else not has_ended(json.loads(tags["process"]))
        if not alive:
            run.tag(error="its process was killed", **({"trial": "killed"} if is_trial else {}))
            run.close("KILLED")


def log_study(run: TrainingRun, study, spaces: dict[str, Space]) -> Figure:
    """Log the best of the whole study so far, under the names of its own run, and the study's plot; return the plot."""
    best = best_trial(study)
    run.log_params(best.params | {"best_trial": best.number})
    scores = {f"valid/{target}/ndcg_10": value for target, value in best.user_attrs.get("validation", {}).items()}
    run.log_metrics({"objective": trial_accuracy(best), "trials": len(started_trials(study))} | scores)
    trials = [(trial.number, trial_accuracy(trial), trial.params) for trial in completed_trials(study)]
    figure = plot_study(trials, spaces)
    run.log_figure(figure, "study")
    return figure


def log_front(run: TrainingRun, study, objectives: Sequence[str]) -> Figure:
    """Log every objective of the best trial, and the Pareto front as front.json and as a plot; return the plot."""
    values = dict(zip(objectives, best_trial(study).values, strict=True))
    run.log_metrics({f"objective/{name}": value for name, value in values.items()})
    run.log_json({"front": front_entries(study, objectives)}, "front")
    figure = plot_front(completed_trials(study), pareto_front(study), objectives)
    run.log_figure(figure, "front")
    return figure


def front_entries(study, objectives: Sequence[str]) -> list[dict]:
    """Trial, objectives, parameters and configuration of each trial of the front, the most accurate first."""
    return [
        {
            "trial": trial.number,
            "objectives": dict(zip(objectives, trial.values, strict=True)),
            "parameters": trial.params,
            "recipe": trial.user_attrs["recipe"],
        }
        for trial in pareto_front(study)
    ]


def plot_study(trials: list[tuple[int, float, dict]], spaces: dict[str, Space]) -> Figure:
    """The objective by trial, and against each parameter that was searched.

    Args:
        trials: (number, objective, parameters) of each completed trial.
    """
    figure, axes = panels(1 + len(spaces), height=3.2, sharey=True, across=4)
    numbers, objectives = [number for number, _, _ in trials], [value for _, value, _ in trials]
    best = [max(objectives[: end + 1]) for end in range(len(objectives))]
    axes[0].step(numbers, best, where="post", color=ORANGE, label="best so far")
    axes[0].scatter(numbers, objectives, color=BLUE, s=18)
    axes[0].legend(frameon=False)
    axes[0].set(title="objective by trial", xlabel="trial")
    for axis, (name, space) in zip(axes[1:], spaces.items(), strict=True):
        tried = [(parameters[name], value) for _, value, parameters in trials if name in parameters]
        if isinstance(space, Choice):
            tried = [(space.values.index(at), value) for at, value in tried]
            axis.set_xticks(range(len(space.values)), [str(value) for value in space.values])
            axis.set_xlim(-0.5, len(space.values) - 0.5)
        else:
            axis.set_xscale("log" if space.log else "linear")
        axis.scatter([at for at, _ in tried], [value for _, value in tried], color=BLUE, s=18)
        axis.set_title(name)
    return figure


def plot_front(trials: list, front: list, objectives: Sequence[str]) -> Figure:
    """Accuracy against each other objective, with the Pareto front marked.

    Args:
        trials: every completed trial, with `values` in the order of the objectives.
        front: the trials that no other beats in every objective.
    """
    figure, axes = panels(len(objectives) - 1, height=3.6, sharey=True)
    for place, axis in enumerate(axes, start=1):
        for shown, color, size in ((trials, GREY, 18), (front, ORANGE, 28)):
            axis.scatter([one.values[place] for one in shown], [one.values[0] for one in shown], color=color, s=size)
        for one in front:
            axis.annotate(str(one.number), (one.values[place], one.values[0]), fontsize=8)
        axis.set(title=f"{objectives[0]} against {objectives[place]}", xlabel=objectives[place])
    return figure


def _tags(study, label: str, features: Features, settings: params.Params) -> dict[str, str]:
    return {
        "label": label,
        "model": settings.train.models[label].name,
        "cut": "valid",
        "study": study.study_name,
        "process": json.dumps(this_process()),
        "split_id": features.description["split_id"],
        "dataset_hash": features.description["dataset_hash"],
    }
