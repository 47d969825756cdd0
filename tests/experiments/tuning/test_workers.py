"""Several workers on one study: the total is kept, and the one that is killed loses its trial and no more."""

from __future__ import annotations

import os
import shutil
import signal
import threading
from pathlib import Path

import pytest
import yaml
from mlflow import MlflowClient
from small_pipeline import inside, write_params

from config import params
from config.paths import FEATURES
from data import ingest, split
from experiments import tune
from experiments.tuning import workers
from experiments.tuning.study import Budget, open_study, storage_url, study_name
from features import feature_files, featurize

WORKERS = 2


@pytest.fixture
def featurized(tmp_path: Path, empty_registry: Path) -> Path:
    """A folder in which the pipeline has run as far as tuning needs it, with a space of short trials."""
    folder = tmp_path
    shutil.copyfile(empty_registry, folder / "mlflow.db")
    write_params(folder, ("two_tower",))
    settings = yaml.safe_load((folder / "params.yaml").read_text(encoding="utf-8"))
    dropout = settings["tune"]["spaces"]["two_tower"]["dropout"]
    settings["tune"] |= {"max_steps": 50, "spaces": {"two_tower": {"dropout": dropout}}}
    (folder / "params.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    with inside(folder):
        for module, arguments in ((ingest, []), (split, []), (featurize, ["--cut", "valid"])):
            assert module.main(arguments) == 0
    return folder


def kill_one(name: str, url: str, killed: list[int], over: threading.Event) -> None:
    """Kill the process of the first trial that has an epoch behind it; its number."""
    study = open_study(name, url, seed=0)
    while not over.wait(0.05):
        for trial in study.get_trials(deepcopy=False):
            if trial.state.name == "RUNNING" and trial.intermediate_values:
                os.kill(trial.user_attrs["process"][1], signal.SIGKILL)
                killed.append(trial.number)
                return


@pytest.mark.slow
def test_a_killed_worker_loses_its_trial_and_the_study_goes_on(featurized: Path) -> None:
    with inside(featurized):
        settings, features = params.load(), feature_files.load_features(FEATURES / "valid")
        name, killed, over = study_name("two_tower", features, settings), [], threading.Event()
        killer = threading.Thread(target=kill_one, args=(name, storage_url(), killed, over))
        killer.start()
        study = tune.tune("two_tower", features, settings, Budget(3, 3600), WORKERS)
        over.set()
        killer.join()

        states = {trial.number: trial.state.name for trial in study.trials if trial.state.name != "WAITING"}
        assert len(states) == 3, "the total of all workers together"
        assert [number for number, state in states.items() if state == "FAIL"] == killed
        assert set(states.values()) <= {"COMPLETE", "PRUNED", "FAIL"}
        assert len({tuple(trial.user_attrs["process"]) for trial in study.trials if trial.number in states}) == 3
        assert os.getpid() not in {trial.user_attrs["process"][1] for trial in study.trials if trial.number in states}

        client = MlflowClient()
        runs = client.search_runs([client.get_experiment_by_name(settings.dataset).experiment_id])
        status = {run.data.tags.get("number"): run.info.status for run in runs}
        assert status[str(killed[0])] == "KILLED"
        assert "RUNNING" not in status.values()


def test_workers_share_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(8), raising=False)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert [workers.threads_per_worker(number) for number in (1, 2, 3, 8, 20)] == [8, 4, 2, 1, 1]

    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert workers.threads_per_worker(2) == 1, "whoever asks for fewer gets fewer"
