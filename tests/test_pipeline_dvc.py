"""DVC drives the pipeline of a small clone: it runs once, remembers, compares, and comes back from a remote."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from experiments.orchestration import workspace

ROOT = Path(__file__).resolve().parent.parent
MODELS = ["popularity", "ease"]
SIZES = {"users": 300, "items": 120, "events": 9000, "days": 60}
ENVIRONMENT = {
    "PATH": os.pathsep.join(  # without the environment of the tests: stages find it in .venv
        folder for folder in os.environ["PATH"].split(os.pathsep) if not Path(folder).is_relative_to(sys.prefix)
    ),
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_CONFIG_NOSYSTEM": "1",
    "DVC_NO_ANALYTICS": "true",
    "OMP_NUM_THREADS": "1",
}
# git's own variables, set where a hook runs the tests, would lead git and DVC out of the clone.
LEFT_OUT = ("PYTHONPATH", "GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "TIDEGATE_DVC_CACHE")

pytestmark = pytest.mark.slow
Do = Callable[..., str]


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A git repository with the project's files, few events and two models; nothing has run in it."""
    folder = tmp_path_factory.mktemp("pipeline") / "clone"
    listing = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listing, cwd=ROOT, capture_output=True, encoding="utf-8", check=True).stdout.split("\0")
    for name in filter(None, names):
        made = name == "dvc.lock" or name.startswith("experiments/results/")
        if not made and (ROOT / name).is_file():  # listed, and not deleted since
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, folder / name)
    (folder / ".venv").symlink_to(sys.prefix)
    shrink(folder)
    return folder


def shrink(folder: Path) -> None:
    """Leave what takes seconds: a small simulated platform and the models that are counted."""
    settings = yaml.safe_load((folder / "params.yaml").read_text(encoding="utf-8"))
    settings["simulate"] |= SIZES
    settings["train"]["models"] = {label: settings["train"]["models"][label] for label in MODELS}
    settings["tune"]["spaces"] = {}
    settings["evaluate"]["resamples"] = 100
    (folder / "params.yaml").write_text(yaml.safe_dump(settings, sort_keys=False), encoding="utf-8")
    workspace.select_models(folder, MODELS)


@pytest.fixture(scope="module")
def do(clone: Path) -> Do:
    """Run a command in the clone and return what it printed; a failure shows all of it."""
    around = {key: value for key, value in os.environ.items() if key not in LEFT_OUT}
    beside = {
        "MLFLOW_TRACKING_URI": f"sqlite:///{clone.parent / 'mlflow.db'}",
        "DVC_SITE_CACHE_DIR": str(clone.parent / "site"),
        "HOME": str(clone.parent),
    }

    def run(*command: str) -> str:
        if command[0] == "dvc":
            command = (".venv/bin/dvc", *command[1:])
        done = subprocess.run(
            command,
            cwd=clone,
            env={**around, **ENVIRONMENT, **beside},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            timeout=300,
        )
        if done.returncode:
            pytest.fail(f"{' '.join(command)} ended with {done.returncode}\n{done.stdout}", pytrace=False)
        return done.stdout

    run("git", "init", "-q")
    run("git", "config", "user.name", "Test")
    run("git", "config", "user.email", "test@example.invalid")
    run("git", "config", "commit.gpgsign", "false")
    return run


@pytest.fixture(scope="module")
def first(do: Do) -> str:
    """What the first run printed; it is committed."""
    commit(do, "Begin")
    printed = do("dvc", "repro")
    commit(do, "Run the pipeline")
    return printed


def commit(do: Do, message: str) -> None:
    do("git", "add", "--all")
    do("git", "commit", "-q", "-m", message)


def products(folder: Path) -> dict[str, str]:
    """Path -> hash of every product that DVC keeps in its cache."""
    lock = yaml.safe_load((folder / "dvc.lock").read_text(encoding="utf-8"))["stages"]
    outs = [folder / out["path"] for stage in lock.values() for out in stage["outs"]]
    files = [file for out in outs for file in ([out] if out.is_file() else out.rglob("*")) if file.is_file()]
    inside = [file for file in files if "out" in file.relative_to(folder).parts]
    return {str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest() for file in inside}


def test_the_pipeline_ends_in_a_leaderboard_of_every_model(first: str, clone: Path) -> None:
    result = json.loads((clone / "experiments/results/demo.json").read_text(encoding="utf-8"))

    assert set(result["models"]) == set(MODELS)
    assert (clone / "experiments/results/demo.md").exists()
    assert "Running stage 'compare'" in first


def test_a_second_run_does_nothing(first: str, do: Do) -> None:
    printed = do("dvc", "repro")

    assert "Running stage" not in printed
    assert "Data and pipelines are up to date." in printed


def test_an_experiment_runs_what_it_changes_is_listed_and_differs(first: str, do: Do) -> None:
    printed = do("dvc", "exp", "run", "-n", "flatter", "-S", "train.models.ease.l2=[5]")
    listed = do("dvc", "exp", "show", "--csv")
    commit(do, "Take the experiment")
    difference = do("dvc", "metrics", "diff", "--md", "HEAD~1")

    assert "Running stage 'train-baselines'" in printed
    assert "Running stage 'ingest'" not in printed
    assert "Running stage 'featurize'" not in printed
    assert "flatter" in listed
    assert [line for line in difference.splitlines() if "ease" in line and "ndcg@10" in line], difference
    assert not [line for line in difference.splitlines() if "popularity" in line and "ndcg@10" in line], difference


def test_products_come_back_from_a_remote(first: str, do: Do, clone: Path) -> None:
    before = products(clone)
    do("dvc", "remote", "add", "--force", "--default", "store", str(clone.parent / "store"))
    do("dvc", "push")
    shutil.rmtree(clone / ".dvc" / "cache")
    shutil.rmtree(clone / "out")

    do("dvc", "pull")

    assert len(before) > 20
    assert products(clone) == before
    assert "Data and pipelines are up to date." in do("dvc", "repro")
