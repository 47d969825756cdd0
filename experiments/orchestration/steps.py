"""What demo and experiment are made of: verbs run in a workspace one after the other, and what came of them."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from config import params
from config.command import UserError
from config.paths import EXPERIMENTS, ROOT, STATE, state
from experiments.orchestration import model_selection
from serving.deployment.deployment_log import who
from training import provenance

RESULTS = ROOT / "experiments" / "results"


def environment() -> dict[str, str]:
    """One state folder for all datasets; this interpreter for every stage."""
    own = {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
        STATE: str(state().resolve()),
        "TIDEGATE_COMMIT": provenance.commit(),
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "DO_NOT_TRACK": "true",
        "DVC_NO_ANALYTICS": "true",
        "GIT_PYTHON_REFRESH": "quiet",
    }
    return {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | own


def step(title: str, module: str, arguments: list[str], folder: Path, env: dict[str, str]) -> None:
    """Run `python -m module` in a folder, its output shown as it comes.

    Raises:
        UserError: it failed; its own words stand above.
    """
    print(f"\n=== {title}", flush=True)
    begun = time.perf_counter()
    command = [sys.executable, "-m", module, *arguments]
    code = subprocess.run(command, cwd=folder, env=env, check=False).returncode
    if code:
        raise UserError(f"{title} failed ({' '.join(command[1:])} ended with {code}); the reason stands above")
    print(f"=== {time.perf_counter() - begun:.0f} s", flush=True)


def data_and_features(folder: Path, env: dict[str, str]) -> None:
    """The stages up to the features; models that cannot hold the catalogue are taken out of a workspace, and named."""
    step("data and features", "dvc", ["repro", "featurize"], folder, env)
    for reason in model_selection.leave_out_what_is_too_large(folder):
        print(f"=== {reason}", flush=True)


def pipeline(folder: Path, env: dict[str, str]) -> None:
    """All stages up to the leaderboard, as far as something changed, and the audit of what they made."""
    title = "pipeline: ingest, split, featurize, train, export, evaluate, compare"
    step(title, "dvc", ["repro", "compare"], folder, env)
    step("audit for leaks", "experiments.audit", [], folder, env)


def publish(folder: Path, dataset: str) -> None:
    """Bring a workspace's results into the project: the only tracked files that another source changes."""
    if folder == ROOT:
        return
    RESULTS.mkdir(exist_ok=True)  # a clone whose results are not committed has none
    for suffix in ("json", "md"):
        shutil.copyfile(folder / "experiments" / "results" / f"{dataset}.{suffix}", RESULTS / f"{dataset}.{suffix}")


def leaderboard(dataset: str) -> str:
    """The models side by side, as experiments/results/<dataset>.json has them."""
    from experiments.leaderboard.markdown import summary

    result = json.loads((RESULTS / f"{dataset}.json").read_text())
    return summary(result, params.load(ROOT / "params.yaml").gate.primary)


def verdict(folder: Path) -> str:
    """What the gate said last, in one line."""
    report = _gate_report(folder)
    return f"Gate: {report['verdict']}: {report['label']}: {report['reason']}"


def verdict_of(folder: Path) -> str:
    """The same in one word."""
    return _gate_report(folder)["verdict"]


def _gate_report(folder: Path) -> dict:
    return json.loads((folder / EXPERIMENTS / "gate.json").read_text())


class AlreadyRunningError(Exception):
    """Another process does the same; the text says which, by whom and since when."""


@contextmanager
def only_one(path: Path, what: str) -> Iterator[None]:
    """Hold a lock for as long as the block runs. That of a process that was killed is free.

    Args:
        path: of the lock's file, which names its holder.

    Raises:
        AlreadyRunningError: another process holds it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise AlreadyRunningError(f"{what} runs already: {file.read().strip() or 'since a moment ago'}") from None
        file.truncate(0)
        file.write(f"pid {os.getpid()} by {who()}, since {datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}\n")
        file.flush()
        yield
