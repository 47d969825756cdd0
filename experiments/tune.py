"""Search a model's hyperparameters with Optuna, on the validation period only; a study resumes where it stopped."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence

from config import params
from config.command import UserError, exits_cleanly
from config.paths import FEATURES, TUNED
from data import files
from experiments.tuning import mlflow_log
from experiments.tuning import study as studies
from experiments.tuning.study import Budget, Search
from experiments.tuning.trials import objectives_text, run_next_trial
from experiments.tuning.workers import Job, run_workers
from features import feature_files
from features.feature_files import Features
from features.fit import SplitTables
from training.model_factory import load_settings


def tune(label: str, features: Features, settings: params.Params, budget: Budget, workers: int = 1):
    """Run trials and return the study. A new study starts with the values of params.yaml, an old one continues.

    Each call is an MLflow run with one nested run per trial. A trial that cannot be fitted, or whose process was killed
    in this call or an earlier one, fails, and the study goes on. With a single objective, a trial below the median of
    earlier trials at the same epoch is pruned. A trial that still runs when the time is over ends at its next epoch:
    it counts as it stands if it leads, otherwise it is given up. The trial of params.yaml always runs to its end.

    Args:
        workers: processes that work on the study at once; more than one read the features of the valid cut.

    Raises:
        UserError: no trial of the study is complete.
    """
    url, objectives = studies.storage_url(), settings.tune.objectives
    study = studies.open_study(studies.study_name(label, features, settings), url, settings.seed, objectives=objectives)
    with mlflow_log.parent_run(study, label, features, settings) as parent:

        def clean_up() -> None:
            for number in studies.fail_dead_trials(study):
                print(f"failed trial {number} of {label}: its process was killed", flush=True)
            mlflow_log.close_abandoned_runs(study, settings.dataset)

        def recover() -> None:
            clean_up()
            studies.enqueue_defaults(study, label, settings)

        def report(number: int) -> None:
            print(f"{trial_line(study, label, number, objectives)}; {budget}", flush=True)

        recover()
        try:
            if workers == 1:
                search = Search.of(label, features, settings, parent.run_id)
                while budget.take():
                    report(run_next_trial(study, search, budget.deadline))
            else:
                job = Job(
                    study.study_name, url, label, settings, parent.run_id, (FEATURES / "valid").resolve(), workers
                )
                run_workers(job, budget, report, recover)
        finally:
            clean_up()
        if not studies.completed_trials(study):
            raise UserError(
                f"tune: none of {len(studies.started_trials(study))} trials is complete; the MLflow UI shows the error of each"
            )
        mlflow_log.log_study(parent, study, objectives)
        write(label, study, objectives, parent.run_id)
    return study


def write(label: str, study, objectives: Sequence[str], run_id: str) -> None:
    """Write tuned/<label>.json with the most accurate configuration and the Pareto front."""
    TUNED.mkdir(parents=True, exist_ok=True)
    best = studies.best_trial(study)
    content = {
        "objective": studies.trial_accuracy(best),
        "defaults": studies.defaults_accuracy(study),
        "parameters": best.params,
        "hyperparameters": best.user_attrs["hyperparameters"],
        "trial": best.number,
        "trials": len(studies.started_trials(study)),
        "study": study.study_name,
        "run_id": run_id,
    }
    if len(objectives) > 1:
        content["front"] = mlflow_log.front_entries(study, objectives)
    files.write_text(TUNED / f"{label}.json", json.dumps(content, indent=1))


def trial_line(study, label: str, number: int, objectives: Sequence[str]) -> str:
    """`completed trial 3 of two_tower in 12 s: accuracy 0.1234 with dropout 0.2; best 0.1300 by trial 1`."""
    trial = study.trials[number]
    seconds = f"{trial.duration.total_seconds():.0f} s"
    if trial.state.name == "COMPLETE":
        early = f" at epoch {trial.user_attrs['cut_short']}, out of time," if "cut_short" in trial.user_attrs else ""
        line = f"completed trial {number} of {label}{early} in {seconds}: {_values(trial, objectives)}"
    else:
        verb = "pruned" if trial.state.name == "PRUNED" else "failed"
        line = f"{verb} trial {number} of {label} in {seconds}: {trial.user_attrs.get('ended')}"
    line += f" with {studies.values_text(trial.params)}"
    if studies.completed_trials(study):
        best = studies.best_trial(study)
        line += f"; best {studies.trial_accuracy(best):.4f} by trial {best.number}"
    return line


def summary_line(label: str, study, objectives: Sequence[str]) -> str:
    """The last line of the command: the best configuration and what it is compared with."""
    default, best = studies.defaults_accuracy(study), studies.best_trial(study)
    against = f"params.yaml reaches {default:.4f}" if default is not None else "params.yaml cannot be fitted"
    if len(objectives) > 1:
        against += f"; the most accurate of {len(studies.pareto_front(study))} on the Pareto front"
    return (
        f"tuned {label} with {len(studies.started_trials(study))} trials: {_values(best, objectives)} with "
        f"{studies.values_text(best.params)}; {against}; written to {TUNED}/{label}.json, params.yaml is unchanged"
    )


def _values(trial, objectives: Sequence[str]) -> str:
    return objectives_text(dict(zip(objectives, trial.values, strict=True)))


def budget_of(arguments: argparse.Namespace, settings: params.Tune) -> Budget:
    """The budget of the command line, by default that of params.yaml; --minutes alone does not limit the trials."""
    minutes = arguments.minutes and studies.parse_minutes(arguments.minutes, "--minutes")
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
    parser.add_argument("--minutes", help="time limit; without --trials as many as fit (default: tune.seconds)")
    parser.add_argument("--workers", type=int, default=1, help="processes that share the cores (default: 1)")
    arguments = parser.parse_args(argv)
    settings = load_settings()
    label = arguments.model or settings.tune.model
    if label not in settings.tune.spaces:
        raise UserError(
            f"--model {label} is unknown; expected labels of tune.spaces: {', '.join(settings.tune.spaces)}"
        )
    budget = budget_of(arguments, settings.tune)
    if settings.tune.folds > 1:
        studies.fold_periods(SplitTables.read(), settings)  # fails here rather than in every worker
    study = tune(label, feature_files.load_features(FEATURES / "valid"), settings, budget, arguments.workers)
    print(summary_line(label, study, settings.tune.objectives))
    return 0


if __name__ == "__main__":
    sys.exit(main())
