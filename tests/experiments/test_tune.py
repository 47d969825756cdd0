"""The tuner finds what is there to find, resumes, gives up what is hopeless, and refuses what cannot be."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from mlflow import MlflowClient
from mlflow.entities import Run

import params
from command import UserError
from experiments import study_record, tune
from tests.training.made_features import checkerboard
from training.train import FitError

SETTINGS = params.load(params.ROOT / "params.yaml")
FEATURES = checkerboard()


def fitted(recipe, features, settings, seed, on_epoch):
    """A fit whose best dropout is 0.4: three epochs, the same score in each."""
    value = 0.5 - (recipe["dropout"] - 0.4) ** 2
    rows = [
        {"step": 10 * epoch, "epoch": epoch, "train/loss": 1.0 / epoch}
        | {f"valid/{target}/ndcg_10": value for target in ("next", "window")}
        for epoch in (1, 2, 3)
    ]
    for row in rows:
        on_epoch(row)
    return SimpleNamespace(recipe=recipe, seconds=0.1, validation={"next": value, "window": value}, curves=rows)


@pytest.fixture
def studied(tracked: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project folder of its own, and a fit that takes no time."""
    monkeypatch.setattr(tune, "OUT", tracked)
    monkeypatch.setattr(tune, "fit", fitted)
    monkeypatch.setenv("TIDEGATE_COMMIT", "abc")
    return tracked


def runs_of(stage: str) -> list[Run]:
    """Runs of a stage, oldest first."""
    client = MlflowClient()
    experiment = client.get_experiment_by_name(SETTINGS.dataset).experiment_id
    return client.search_runs([experiment], f"tags.stage = '{stage}'", order_by=["attributes.start_time ASC"])


def test_the_best_trial_is_no_worse_than_the_defaults_and_a_second_call_goes_on(studied: Path) -> None:
    study = tune.tune("two_tower", FEATURES, SETTINGS, 4)
    again = tune.tune("two_tower", FEATURES, SETTINGS, 2)

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
    study = tune.tune("two_tower", FEATURES, SETTINGS, 3)

    (parent,) = runs_of("tune")
    trials = runs_of("trial")
    assert [run.info.run_name for run in trials] == [f"two_tower · trial {n}" for n in range(3)]
    assert {run.data.tags["mlflow.parentRunId"] for run in trials} == {parent.info.run_id}
    for run, trial in zip(trials, study.trials, strict=True):
        assert run.info.status == "FINISHED"
        assert run.data.metrics["objective"] == trial.value
        assert float(run.data.params["dropout"]) == pytest.approx(trial.params["dropout"])
        assert {"valid/next/ndcg_10", "early_stopping/next/ndcg_10", "train/loss"} <= set(run.data.metrics)


def test_a_trial_that_cannot_be_fitted_fails_and_the_study_goes_on(studied: Path, monkeypatch) -> None:
    calls = []

    def flaky(*arguments):
        calls.append(arguments)
        if len(calls) == 2:
            raise FitError("the loss is not a number")
        return fitted(*arguments)

    monkeypatch.setattr(tune, "fit", flaky)
    study = tune.tune("two_tower", FEATURES, SETTINGS, 3)

    assert [trial.state.name for trial in study.trials] == ["COMPLETE", "FAIL", "COMPLETE"]
    assert [run.info.status for run in runs_of("trial")] == ["FINISHED", "FAILED", "FINISHED"]
    assert runs_of("trial")[1].data.tags["error"] == "FitError: the loss is not a number"
    assert runs_of("tune")[0].info.status == "FINISHED"


def test_a_study_without_a_finished_trial_is_one_line_and_a_failed_run(studied: Path, monkeypatch) -> None:
    def refuse(*_):
        raise FitError("no")

    monkeypatch.setattr(tune, "fit", refuse)
    with pytest.raises(UserError, match="none of 2 trials came to an end"):
        tune.tune("two_tower", FEATURES, SETTINGS, 2)
    assert runs_of("tune")[0].info.status == "FAILED"


def test_a_trial_behind_the_median_is_pruned_at_its_first_epoch(studied: Path, monkeypatch) -> None:
    values = [0.5] * 5 + [0.1]  # Optuna's median pruner lets five trials end before it judges

    def scripted(recipe, features, settings, seed, on_epoch):
        return fitted({"dropout": 0.4 - (0.5 - values.pop(0)) ** 0.5}, features, settings, seed, on_epoch)

    monkeypatch.setattr(tune, "fit", scripted)
    study = tune.tune("two_tower", FEATURES, SETTINGS, 6)

    assert [trial.state.name for trial in study.trials] == ["COMPLETE"] * 5 + ["PRUNED"]
    assert list(study.trials[5].intermediate_values) == [1]
    pruned = runs_of("trial")[5]
    assert pruned.info.status == "KILLED"
    assert pruned.data.tags["trial"] == "pruned"
    assert study_record.completed(study) == study.trials[:5]


def test_a_space_that_names_an_unknown_parameter_is_refused(tmp_path) -> None:
    raw = yaml.safe_load((params.ROOT / "params.yaml").read_text())
    raw["tune"]["spaces"]["two_tower"]["depht"] = {"low": 0, "high": 1, "log": False}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(raw))

    with pytest.raises(params.ParamsError, match="depht"):
        params.load(tmp_path / "params.yaml")


def test_an_unknown_model_is_one_line(capsys: pytest.CaptureFixture) -> None:
    assert tune.main(["--model", "nobody"]) == 2
    assert "tune.spaces holds two_tower" in capsys.readouterr().err
