"""The tuner finds what is there to find, resumes, and refuses what cannot be."""

from __future__ import annotations

from types import SimpleNamespace

import mlflow
import pytest
import yaml

import params
from experiments import tune

SETTINGS = params.load(params.ROOT / "params.yaml")
FEATURES = SimpleNamespace(description={"split_id": "s"})


@pytest.fixture
def studied(tmp_path, monkeypatch: pytest.MonkeyPatch):
    """A project folder of its own, and a fit whose best dropout is 0.4."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tune, "OUT", tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")

    def fit(recipe, features, settings, seed, on_epoch):
        on_epoch({"step": 1, "train/loss": 1.0})
        value = 0.5 - (recipe["dropout"] - 0.4) ** 2
        return SimpleNamespace(recipe=recipe, seconds=0.1, validation={"next": value, "window": value})

    monkeypatch.setattr(tune, "fit", fit)
    return tmp_path


def test_the_best_trial_is_no_worse_than_the_defaults_and_a_second_call_goes_on(studied) -> None:
    study = tune.tune("two_tower", FEATURES, SETTINGS, 6)
    again = tune.tune("two_tower", FEATURES, SETTINGS, 2)

    assert study.trials[0].params["dropout"] == SETTINGS.train.models["two_tower"].dropout
    assert again.best_value >= study.trials[0].value
    assert [trial.number for trial in again.trials] == list(range(8))

    client = mlflow.MlflowClient()
    runs = client.search_runs([client.get_experiment_by_name(SETTINGS.dataset).experiment_id])
    parents = {run.info.run_id for run in runs if run.data.tags.get("stage") == "tune"}
    nested = [run for run in runs if run.data.tags.get("mlflow.parentRunId") in parents]
    assert len(parents) == 2
    assert len(nested) == 8
    assert all({"objective", "valid/next/ndcg_10", "train/loss"} <= set(run.data.metrics) for run in nested)


def test_a_space_that_names_an_unknown_parameter_is_refused(tmp_path) -> None:
    raw = yaml.safe_load((params.ROOT / "params.yaml").read_text())
    raw["tune"]["spaces"]["two_tower"]["depht"] = {"low": 0, "high": 1, "log": False}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(raw))

    with pytest.raises(params.ParamsError, match="depht"):
        params.load(tmp_path / "params.yaml")


def test_an_unknown_model_is_one_line(capsys: pytest.CaptureFixture) -> None:
    assert tune.main(["--model", "nobody"]) == 2
    assert "tune.spaces holds two_tower" in capsys.readouterr().err
