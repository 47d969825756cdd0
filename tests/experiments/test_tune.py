"""The tuner finds what is there to find, resumes, gives up what is hopeless, and refuses what cannot be."""

from __future__ import annotations

import json
import socket
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from made_features import checkerboard
from mlflow import MlflowClient
from mlflow.entities import Run

from config import params
from config.command import UserError
from config.paths import ROOT
from experiments import tune
from experiments.tuning import trials
from experiments.tuning.study import (
    Budget,
    completed_trials,
    enqueue_defaults,
    open_study,
    storage_url,
    study_name,
    this_process,
)
from training import provenance, tracking
from training.fitting import FitError

pytestmark = pytest.mark.slow  # each test takes little, all of them many seconds

SETTINGS = params.load(ROOT / "params.yaml")
FEATURES = checkerboard()
DEAD = [socket.gethostname(), 2**22 + 1, 0.0]  # no process has this number


def fitted(configuration, features, settings, seed, on_epoch, deadline=None):
    """A fit whose best dropout is 0.4: three epochs, the same score in each."""
    value = 0.5 - (configuration["dropout"] - 0.4) ** 2
    rows = [
        {"step": 10 * epoch, "epoch": epoch, "train/loss": 1.0 / epoch}
        | {f"valid/{target}/ndcg_10": value for target in ("next_item", "horizon")}
        for epoch in (1, 2, 3)
    ]
    for row in rows:
        if on_epoch(row):
            break
    return SimpleNamespace(
        hyperparameters=configuration, seconds=0.1, validation={"next_item": value, "horizon": value}, curves=rows
    )


@pytest.fixture
def studied(tracked: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project folder of its own, and a fit that takes no time."""
    monkeypatch.setattr(trials, "fit", fitted)
    monkeypatch.setattr(provenance, "checkout", lambda: ("abc", []))
    return tracked


def search(number: int):
    """Run so many trials of the two-tower, without a hurry."""
    return tune.tune("two_tower", FEATURES, SETTINGS, Budget(number, 600))


def runs_of(stage: str) -> list[Run]:
    """Runs of a stage, oldest first."""
    client = MlflowClient()
    experiment = client.get_experiment_by_name(SETTINGS.dataset).experiment_id
    return client.search_runs([experiment], f"tags.stage = '{stage}'", order_by=["attributes.start_time ASC"])


def test_the_best_trial_is_no_worse_than_the_defaults_and_a_second_call_goes_on(studied: Path) -> None:
    study = search(4)
    again = search(2)

    assert study.trials[0].params["dropout"] == SETTINGS.train.models["two_tower"].dropout
    assert again.best_value >= study.trials[0].value
    assert [trial.number for trial in again.trials] == list(range(6))
    assert len({trial.params["dropout"] for trial in again.trials}) == 6, "a second call tries the first values again"

    first, second = runs_of("tune")
    assert (first.info.run_name, second.info.run_name) == (
        "tune two_tower · from trial 0",
        "tune two_tower · from trial 4",
    )
    assert second.data.metrics["objective"] == again.best_value
    assert float(second.data.params["dropout"]) == pytest.approx(again.best_params["dropout"])
    plot = studied / "mlartifacts" / SETTINGS.dataset / second.info.run_id / "artifacts/plots/study.png"
    assert plot.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")


def test_each_trial_is_a_nested_run_with_its_parameters_and_its_curve(studied: Path) -> None:
    study = search(3)

    (parent,) = runs_of("tune")
    trials = runs_of("trial")
    assert [run.info.run_name for run in trials] == [f"two_tower · trial {n}" for n in range(3)]
    assert {run.data.tags["mlflow.parentRunId"] for run in trials} == {parent.info.run_id}
    for run, trial in zip(trials, study.trials, strict=True):
        assert run.info.status == "FINISHED"
        assert run.data.metrics["objective"] == trial.value
        assert float(run.data.params["dropout"]) == pytest.approx(trial.params["dropout"])
        assert {"valid/next_item/ndcg_10", "early_stopping/next_item/ndcg_10", "train/loss"} <= set(run.data.metrics)


def test_a_trial_that_cannot_be_fitted_fails_and_the_study_goes_on(studied: Path, monkeypatch) -> None:
    calls = []

    def flaky(*arguments, **_):
        calls.append(arguments)
        if len(calls) == 2:
            raise FitError("the loss is not a number")
        return fitted(*arguments)

    monkeypatch.setattr(trials, "fit", flaky)
    study = search(3)

    assert [trial.state.name for trial in study.trials] == ["COMPLETE", "FAIL", "COMPLETE"]
    assert [run.info.status for run in runs_of("trial")] == ["FINISHED", "FAILED", "FINISHED"]
    assert runs_of("trial")[1].data.tags["error"] == "FitError: the loss is not a number"
    assert runs_of("tune")[0].info.status == "FINISHED"


def test_a_study_without_a_finished_trial_is_one_line_and_a_failed_run(studied: Path, monkeypatch) -> None:
    def refuse(*_, **__):
        raise FitError("no")

    monkeypatch.setattr(trials, "fit", refuse)
    with pytest.raises(UserError, match="none of 2 trials is complete"):
        search(2)
    assert runs_of("tune")[0].info.status == "FAILED"


def test_a_trial_behind_the_median_is_pruned_at_its_first_epoch(studied: Path, monkeypatch) -> None:
    values = [0.5] * 5 + [0.1]  # Optuna's median pruner lets five trials end before it judges

    def scripted(configuration, features, settings, seed, on_epoch, deadline=None):
        return fitted({"dropout": 0.4 - (0.5 - values.pop(0)) ** 0.5}, features, settings, seed, on_epoch)

    monkeypatch.setattr(trials, "fit", scripted)
    study = search(6)

    assert [trial.state.name for trial in study.trials] == ["COMPLETE"] * 5 + ["PRUNED"]
    assert list(study.trials[5].intermediate_values) == [1]
    pruned = runs_of("trial")[5]
    assert pruned.info.status == "KILLED"
    assert pruned.data.tags["trial"] == "pruned"
    assert completed_trials(study) == study.trials[:5]


def test_what_a_killed_process_left_open_is_closed_and_its_values_of_params_are_measured(studied: Path) -> None:
    name = study_name("two_tower", FEATURES, SETTINGS)
    left = open_study(name, storage_url(), 0)
    enqueue_defaults(left, "two_tower", SETTINGS)
    left.ask().set_user_attr("process", DEAD)
    tags = {"study": name, "process": json.dumps(DEAD)}
    tracking.start_run(SETTINGS.dataset, "the call", tags | {"stage": "tune"})
    tracking.start_run(SETTINGS.dataset, "its trial", tags | {"stage": "trial", "number": "0"})

    study = search(1)

    assert [trial.state.name for trial in study.trials] == ["FAIL", "COMPLETE"]
    assert study.trials[1].params["dropout"] == SETTINGS.train.models["two_tower"].dropout
    assert [run.info.status for run in runs_of("tune")] == ["KILLED", "FINISHED"]
    assert [run.info.status for run in runs_of("trial")] == ["KILLED", "FINISHED"]


def test_what_another_process_works_on_is_left_alone(studied: Path) -> None:
    other = open_study(study_name("two_tower", FEATURES, SETTINGS), storage_url(), 0)
    other.ask().set_user_attr("process", this_process())
    other.ask().set_user_attr("process", ["another machine", *DEAD[1:]])

    assert [trial.state.name for trial in search(1).trials] == ["RUNNING", "RUNNING", "COMPLETE"]


def test_a_budget_that_is_over_lets_the_first_trial_count_as_it_stands_and_no_other_begin(
    studied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deadlines = []

    def observed(configuration, features, settings, seed, on_epoch, deadline):
        deadlines.append(deadline)
        return fitted(configuration, features, settings, seed, on_epoch)

    monkeypatch.setattr(trials, "fit", observed)
    started = time.time()
    study = tune.tune("two_tower", FEATURES, SETTINGS, Budget(None, 1e-6))

    assert [trial.state.name for trial in study.trials] == ["COMPLETE"]
    assert study.trials[0].user_attrs["cut_short"] == 1
    assert deadlines[0] <= started + 60, "the fit itself knows when the time is over"


@pytest.mark.parametrize(("dropout", "state"), [(0.4, "COMPLETE"), (0.1, "FAIL")])
def test_a_trial_that_runs_out_of_time_counts_where_it_leads(
    studied: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, dropout: float, state: str
) -> None:
    seen = []

    def too_long(configuration, features, settings, seed, on_epoch, deadline):
        budget.deadline = 0.0

        def counted(row):
            seen.append(row["epoch"])
            return on_epoch(row)

        return fitted(
            configuration | {"dropout": dropout if seen else 0.2}, features, settings, seed, counted, deadline=deadline
        )

    monkeypatch.setattr(trials, "fit", too_long)
    budget = Budget(2, 600)
    monkeypatch.setattr(Budget, "seconds_left", 1.0)
    study = tune.tune("two_tower", FEATURES, SETTINGS, budget)

    assert seen == [1, 2, 3, 1], "the first to its end, the other until the time is seen to be over"
    assert [trial.state.name for trial in study.trials] == ["COMPLETE", state]
    out = capsys.readouterr().out
    assert "out of time at epoch 1" in out or "at epoch 1, out of time" in out


def test_trials_of_other_lengths_or_spaces_are_another_study() -> None:
    longer = SETTINGS.model_copy(update={"tune": SETTINGS.tune.model_copy(update={"max_steps": None})})
    narrow = {"two_tower": {"dropout": SETTINGS.tune.spaces["two_tower"]["dropout"]}}
    smaller = SETTINGS.model_copy(update={"tune": SETTINGS.tune.model_copy(update={"spaces": narrow})})

    assert len({study_name("two_tower", FEATURES, settings) for settings in (SETTINGS, longer, smaller)}) == 3


def test_workers_draw_from_seeds_of_their_own(studied: Path) -> None:
    url = storage_url()
    drawn = {open_study("one", url, seed=0, worker=n, workers=3).ask().suggest_float("x", 0, 1) for n in range(3)}

    assert len(drawn) == 3


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (
            ["--model", "nobody"],
            "--model nobody is unknown; expected labels of tune.spaces: item_knn, ials, sasrec, two_tower",
        ),
        (["--trials", "0"], "--trials is 0; expected at least 1"),
        (["--workers", "0"], "--workers is 0; expected at least 1"),
        (["--minutes", "soon"], "--minutes is 'soon'; expected a number of minutes above 0"),
        (["--minutes", "nan"], "--minutes is 'nan'; expected a number of minutes above 0"),
        (["--minutes", "0"], "--minutes is '0'; expected a number of minutes above 0"),
    ],
)
def test_a_wrong_argument_is_one_line(capsys: pytest.CaptureFixture, arguments: list[str], says: str) -> None:
    assert tune.main(arguments) == 2
    assert capsys.readouterr().err.startswith(f"error: {says}")


# Where studies are kept


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("nothing://at/all", "TIDEGATE_STUDY_STORAGE: nothing://at/all cannot be opened: "),
        ("sqlite:////no/such/folder/x.db", "TIDEGATE_STUDY_STORAGE: sqlite:////no/such/folder/x.db cannot be opened: "),
        ("postgresql://me:secret@127.0.0.1:1/x", "TIDEGATE_STUDY_STORAGE: postgresql+psycopg://me:***@127.0.0.1:1/x "),
    ],
)
def test_a_storage_that_cannot_be_opened_is_named_without_its_password(
    studied: Path, monkeypatch: pytest.MonkeyPatch, url: str, says: str
) -> None:
    monkeypatch.setenv("TIDEGATE_STUDY_STORAGE", url)

    with pytest.raises(UserError) as error:
        search(1)

    assert str(error.value).startswith(says)
    assert "secret" not in str(error.value)
    assert "\n" not in str(error.value)


def test_a_journal_serves_as_well_as_a_database(studied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIDEGATE_STUDY_STORAGE", f"journal:{studied}/studies.log")
    search(1)

    assert [trial.number for trial in search(1).trials] == [0, 1]
    assert not (studied / "studies.db").exists()
