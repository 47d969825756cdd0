"""VERB demo: the whole life of a model: events, features, models, gate, live endpoint, answers by title."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import params
from command import UserError, exits_cleanly
from experiments import workspace
from params import ROOT
from training import provenance

SHOWN_USERS, SHOWN_EVENTS, SHOWN_ITEMS = 3, 5, 5


def environment() -> dict[str, str]:
    """One tracking store and one endpoint for all data sets; this interpreter for every stage."""
    database = ROOT / "experiments" / "out" / "mlflow.db"
    database.parent.mkdir(parents=True, exist_ok=True)
    own = {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
        "MLFLOW_TRACKING_URI": os.environ.get("MLFLOW_TRACKING_URI", f"sqlite:///{database}"),
        "TIDEGATE_COMMIT": provenance.commit(),
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "DO_NOT_TRACK": "true",
        "DVC_NO_ANALYTICS": "true",
        "GIT_PYTHON_REFRESH": "quiet",
    }
    return {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | own


def step(title: str, command: list[str], folder: Path, env: dict[str, str]) -> None:
    """Run one command, its output shown as it comes.

    Raises:
        UserError: it failed; its own words stand above.
    """
    print(f"\n=== {title}", flush=True)
    begun = time.perf_counter()
    code = subprocess.run(command, cwd=folder, env=env, check=False).returncode
    if code:
        raise UserError(f"{title} failed ({' '.join(command[-3:])} ended with {code}); the reason stands above")
    print(f"=== {time.perf_counter() - begun:.0f} s", flush=True)


def publish(folder: Path, dataset: str) -> None:
    """Bring a workspace's results into the project: the only tracked files that another source changes."""
    if folder == ROOT:
        return
    results = ROOT / "experiments" / "results"
    results.mkdir(exist_ok=True)  # a clone whose results are not committed has none
    for suffix in ("json", "md"):
        shutil.copyfile(folder / "experiments" / "results" / f"{dataset}.{suffix}", results / f"{dataset}.{suffix}")


def leaderboard(dataset: str) -> str:
    """The models side by side, as experiments/results/<dataset>.json has them."""
    from experiments.summary import summary

    result = json.loads((ROOT / "experiments/results" / f"{dataset}.json").read_text())
    return summary(result, params.load().gate.primary)


def answers(folder: Path, dataset: str) -> str:
    """Three users with their latest events and their recommendations, fetched over HTTP."""
    from experiments.showcase import showcase
    from serving import settings
    from serving.client import TorchServe

    with TorchServe.of(settings.load()) as client:
        return showcase(folder, lambda body: client.predict(dataset, body), SHOWN_USERS, SHOWN_EVENTS, SHOWN_ITEMS)


def closing(folder: Path, dataset: str) -> str:
    """What to do next."""
    where = "" if folder == ROOT else f" (products: {folder.relative_to(ROOT)})"
    return (
        f"\nNext{where}:\n"
        f"  make ui      compare the runs in MLflow: experiment and registered model '{dataset}'\n"
        f"  .venv/bin/python -m serving.ask --dataset {dataset} --history ITEM,ITEM --k 5      ask for more\n"
        f"  experiments/results/{dataset}.md      the leaderboard; "
        f"{(folder / 'experiments/out/gate.html').relative_to(ROOT)}      the gate's report\n"
        f"  make stop    stop TorchServe and the MLflow UI"
    )


@exits_cleanly
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m experiments.demo", description=__doc__)
    parser.add_argument("--source", type=Path, help="file or folder of events (default: the simulator)")
    parser.add_argument("--users", type=Path, help="side table of users")
    parser.add_argument("--items", type=Path, help="side table of items")
    parser.add_argument("--columns", default="", help="our_name=their_name,... for CSV and Parquet")
    parser.add_argument("--name", help="name of the data set (default: from the source)")
    arguments = parser.parse_args(argv)
    folder = ROOT
    if arguments.source:
        columns = workspace.parse_columns(arguments.columns)
        folder = workspace.make(arguments.source, arguments.users, arguments.items, columns, arguments.name)
    elif arguments.users or arguments.items or arguments.columns or arguments.name:
        raise UserError("USERS, ITEMS, COLUMNS and NAME describe a SOURCE; none was given")
    dataset = params.load(folder / "params.yaml").dataset
    env, python = environment(), sys.executable
    step(
        "pipeline: ingest, split, featurize, train, export, evaluate, compare",
        [python, "-m", "dvc", "repro", "compare"],
        folder,
        env,
    )
    step("audit for leaks", [python, "-m", "experiments.audit"], folder, env)
    step("tune (a few trials)", [python, "-m", "experiments.tune"], folder, env)
    step("gate", [python, "-m", "experiments.gate"], folder, env)
    publish(folder, dataset)
    step("deploy", [python, "-m", "serving.deploy", "--dataset", dataset], ROOT, env)
    print(f"\n{leaderboard(dataset)}\n")
    report = json.loads((folder / "experiments/out/gate.json").read_text())
    print(f"Gate: {report['verdict']}: {report['label']}: {report['reason']}\n")
    print(answers(folder, dataset))
    print(closing(folder, dataset))
    return 0


if __name__ == "__main__":
    sys.exit(main())
