"""A study in MLflow: one run per call of tune, and below it one nested run per trial."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from config import params, search_space
from config.search_space import Choice, Space
from experiments.tuning.study import accuracy, begun, best, completed, front, is_gone, this_process
from features.feature_files import Features
from training import tracking
from training.plots import BLUE, GREY, ORANGE, panels
from training.tracking import NOTE, TrainingRun, carried_through

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def of_study(trials: list[tuple[int, float, dict]], spaces: dict[str, Space]) -> Figure:
    """A study's history, and the objective against each parameter that was searched.

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


def of_front(trials: list, front: list, objectives: Sequence[str]) -> Figure:
    """Accuracy against each other objective, with the front of all of them marked.

    Args:
        trials: every completed trial, `values` in the order of the objectives; `front` those that nothing beats.
    """
    figure, axes = panels(len(objectives) - 1, height=3.6, sharey=True)
    for place, axis in enumerate(axes, start=1):
        axis.scatter([one.values[place] for one in trials], [one.values[0] for one in trials], color=GREY, s=18)
        axis.scatter([one.values[place] for one in front], [one.values[0] for one in front], color=ORANGE, s=28)
        for one in front:
            axis.annotate(str(one.number), (one.values[place], one.values[0]), fontsize=8)
        axis.set(title=f"{objectives[0]} against {objectives[place]}", xlabel=objectives[place])
    return figure


if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from experiments.tuning.trials import Search

VERB = "experiments.tune"


@contextmanager
def parent_run(study, label: str, features: Features, settings: params.Params) -> Iterator[TrainingRun]:
    """The run of one call; named after the trials that are still to come."""
    before = len(begun(study))
    first = f"going on after {before} trials" if before else "from the values of params.yaml"
    note = f"Searches parameters of **{label}** on temporal validation of `{settings.dataset}`, {first}."
    tags = _tags(study, label, features, settings) | {"stage": "tune", NOTE: note}
    run = tracking.open_run(settings.dataset, f"tune {label} · from trial {before}", tags, verb=VERB)
    with carried_through(run, features):
        yield run


@contextmanager
def trial_run(trial, tried: dict, search: Search, gave_up: type[Exception]) -> Iterator[TrainingRun]:
    """The nested run of one trial: KILLED where it was pruned or given up, FAILED where it could not be fitted."""
    import optuna

    label, settings = search.label, search.settings
    note = f"Trial {trial.number} of **{label}**: {values_text(trial.params)}."
    own = {"stage": "trial", "number": str(trial.number), "mlflow.parentRunId": search.parent, NOTE: note}
    tags = _tags(trial.study, label, search.features, settings) | own
    run = tracking.open_run(settings.dataset, f"{label} · trial {trial.number}", tags, tried, VERB)
    with carried_through(run, gave_up=(optuna.TrialPruned, gave_up)):
        try:
            yield run
        except BaseException as error:
            ended = "pruned" if isinstance(error, optuna.TrialPruned) else "given up"
            run.tag(trial=ended if isinstance(error, optuna.TrialPruned | gave_up) else "failed")
            raise
        run.tag(trial="complete")


def close_abandoned(study, dataset: str) -> None:
    """End the runs of this study whose process was killed before it could.

    A trial's run ends before the study notes the trial's end, so one that is still open then never will.
    """
    running = {trial.number for trial in study.get_trials(deepcopy=False) if trial.state.name in ("RUNNING", "WAITING")}
    for run, tags in tracking.unfinished(dataset, {"study": study.study_name}):
        alive = int(tags["number"]) in running if tags["stage"] == "trial" else not is_gone(json.loads(tags["process"]))
        if not alive:
            run.tag(error="its process was killed", **({"trial": "killed"} if tags["stage"] == "trial" else {}))
            run.close("KILLED")


def log_study(run: TrainingRun, study, spaces: dict[str, search_space.Space]) -> Figure:
    """The best of the whole study so far, under the names that its own run has, and the study's plot, returned too."""
    found = best(study)
    run.log_params(found.params | {"best_trial": found.number})
    scores = {f"valid/{target}/ndcg_10": value for target, value in found.user_attrs.get("validation", {}).items()}
    run.log_metrics({"objective": accuracy(found), "trials": len(begun(study))} | scores)
    figure = of_study([(trial.number, accuracy(trial), trial.params) for trial in completed(study)], spaces)
    run.log_figure(figure, "study")
    return figure


def log_front(run: TrainingRun, study, objectives: Sequence[str]) -> Figure:
    """Every objective of the trial that is taken, the front as front.json and as a plot, which is returned too."""
    values = dict(zip(objectives, best(study).values, strict=True))
    run.log_metrics({f"objective/{name}": value for name, value in values.items()})
    run.log_json({"front": front_facts(study, objectives)}, "front")
    figure = of_front(completed(study), front(study), objectives)
    run.log_figure(figure, "front")
    return figure


def front_facts(study, objectives: Sequence[str]) -> list[dict]:
    """Trial, objectives, parameters and recipe of each trial of the front, the most accurate first."""
    return [
        {
            "trial": trial.number,
            "objectives": dict(zip(objectives, trial.values, strict=True)),
            "parameters": trial.params,
            "recipe": trial.user_attrs["recipe"],
        }
        for trial in front(study)
    ]


def values_text(values: dict) -> str:
    """`dropout 0.12, embedding_dim 64`."""
    shown = {name: f"{value:.3g}" if isinstance(value, float) else str(value) for name, value in values.items()}
    return ", ".join(f"{name} {value}" for name, value in shown.items())


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
