"""VERB tune: search a model's parameters with Optuna, on temporal validation only; resumes where it stopped."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence

from config import params, search_space
from config.command import UserError, exits_cleanly
from config.paths import FEATURES, TUNED
from experiments.tuning import mlflow_log as study_record
from experiments.tuning import study as study_storage
from experiments.tuning import trials as trials_module
from experiments.tuning.mlflow_log import values_text
from experiments.tuning.objectives import text
from experiments.tuning.study import (
    Budget,
    accuracy,
    begin_with_defaults,
    begun,
    best,
    bury,
    completed,
    front,
    minutes_of,
    name_of,
    open_study,
    value_of_defaults,
)
from experiments.tuning.trials import Search, run_next
from experiments.tuning.workers import Crew, Job
from features import feature_files
from features.feature_files import Features


def tune(label: str, features: Features, settings: params.Params, budget: Budget, crew: int = 1):
    """Run trials and return the study; a new study begins with the values of params.yaml, an old one goes on.

    Each call is an MLflow run with one nested run per trial. A trial whose model cannot be fitted fails and the
    study goes on, and so does one whose process was killed, in this call or an earlier one; one that falls behind
    the median of the trials before it, epoch for epoch, is pruned, unless there are several objectives; one that still
    runs when the time is over ends at its next epoch: it counts as it stands if it is the best by then, else it is given
    up, unless it is the one of params.yaml.

    Args:
        crew: number of processes that work on the study at once; more than one read the features of the valid cut.

    Raises:
        UserError: no trial of the study has come to an end.
    """
    url, aims = study_storage.url_of(), settings.tune.objectives
    study = open_study(name_of(label, features, settings), url, settings.seed, objectives=aims)
    with study_record.parent_run(study, label, features, settings) as parent:

        def tidy() -> None:
            for number in bury(study):
                print(f"tune: {label} trial {number}: its process was killed", flush=True)
            study_record.close_abandoned(study, settings.dataset)

        def tidy_and_go_on() -> None:
            tidy()
            begin_with_defaults(study, label, settings)

        def tell(number: int) -> None:
            print(f"tune: {label} {progress(study, number, aims)}; {budget}", flush=True)

        tidy_and_go_on()
        try:
            if crew == 1:
                search = Search.of(label, features, settings, parent.run_id)
                while budget.take():
                    tell(run_next(study, search, budget.deadline))
            else:
                job = Job(study.study_name, url, label, settings, parent.run_id, (FEATURES / "valid").resolve(), crew)
                Crew(job, budget, tell, tidy_and_go_on).run()
        finally:
            tidy()
        if not completed(study):
            raise UserError(f"tune: none of {len(begun(study))} trials came to an end; the UI shows each one's error")
        spaces = search_space.around(settings.tune.spaces[label], settings.train.models[label])
        figures = {"": study_record.log_study(parent, study, spaces)}
        if len(aims) > 1:
            figures[".front"] = study_record.log_front(parent, study, aims)
        write(label, study, aims, figures, parent.run_id)
    return study


def progress(study, number: int, aims: Sequence[str]) -> str:
    """How a trial ended, and the best so far."""
    trial = study.trials[number]
    ended = f"{'pruned' if trial.state.name == 'PRUNED' else 'failed'}: {trial.user_attrs.get('ended')}"
    reached = reached_by(trial, aims) if trial.state.name == "COMPLETE" else ended
    if "cut_short" in trial.user_attrs:
        reached += f", out of time at epoch {trial.user_attrs['cut_short']},"
    against = f"; best {accuracy(best(study)):.4f} by trial {best(study).number}" if completed(study) else ""
    return (
        f"trial {number}: {reached} in {trial.duration.total_seconds():.0f} s with {values_text(trial.params)}{against}"
    )


def reached_by(trial, aims: Sequence[str]) -> str:
    """`0.1234`, or `accuracy 0.1234, diversity 0.8000` where there are several."""
    values = dict(zip(aims, trial.values, strict=True))
    return text(values) if len(aims) > 1 else f"{accuracy(trial):.4f}"


def write(label: str, study, aims: Sequence[str], figures: dict, run_id: str) -> None:
    """tuned/<label>.json, which holds the most accurate recipe and the front, and the study's plots beside it."""
    TUNED.mkdir(parents=True, exist_ok=True)
    taken = best(study)
    facts = {"objective": accuracy(taken), "defaults": value_of_defaults(study), "parameters": taken.params,
             "recipe": taken.user_attrs["recipe"], "trial": taken.number, "trials": len(begun(study)),
             "study": study.study_name, "run_id": run_id}  # fmt: skip
    if len(aims) > 1:
        facts["front"] = study_record.front_facts(study, aims)
    (TUNED / f"{label}.json").write_text(json.dumps(facts, indent=1))
    for name, figure in figures.items():
        figure.savefig(TUNED / f"{label}{name}.png")


def told(label: str, study, aims: Sequence[str]) -> str:
    """What a person reads last: the recipe that is taken, and what there is beside it."""
    defaults, taken = value_of_defaults(study), best(study)
    against = f"the values of params.yaml reach {defaults:.4f}" if defaults is not None else "those of params.yaml fail"
    beside = ""
    if len(aims) > 1:
        beside = f"; it is the most accurate of {len(front(study))} on the front, which {label}.front.png shows"
    return (
        f"tune: best of {len(begun(study))} trials {reached_by(taken, aims)} with {values_text(taken.params)}; "
        f"{against}{beside}; the recipe lies in {TUNED}/{label}.json, params.yaml is as it was"
    )


def budget_of(arguments: argparse.Namespace, settings: params.Tune) -> Budget:
    """What the command line asks for, else what params.yaml does; a time without a number of trials is filled."""
    minutes = arguments.minutes and minutes_of(arguments.minutes, "--minutes")
    for name in ("trials", "workers"):
        value = getattr(arguments, name)
        if value is not None and value < 1:
            raise UserError(f"--{name} is {value}; expected at least 1")
    trials = arguments.trials or (None if minutes else settings.trials)
    return Budget(trials, minutes * 60 if minutes else settings.seconds)


@exits_cleanly
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m experiments.tune", description=__doc__)
    parser.add_argument("--model", help="a label of params.yaml: tune.spaces (default: tune.model)")
    parser.add_argument("--trials", type=int, help="how many more, of all workers together (default: tune.trials)")
    parser.add_argument("--minutes", help="how long; without --trials as many as it allows (default: tune.seconds)")
    parser.add_argument("--workers", type=int, default=1, help="processes that share the cores (default: 1)")
    arguments = parser.parse_args(argv)
    settings = params.load()
    label = arguments.model or settings.tune.model
    if label not in settings.tune.spaces:
        raise UserError(f"--model {label}: tune.spaces holds {', '.join(settings.tune.spaces)}")
    budget = budget_of(arguments, settings.tune)
    trials_module.refuse_too_many(settings)
    study = tune(label, feature_files.load(FEATURES / "valid"), settings, budget, arguments.workers)
    print(told(label, study, settings.tune.objectives))
    return 0


if __name__ == "__main__":
    sys.exit(main())
