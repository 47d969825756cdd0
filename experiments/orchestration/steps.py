"""Steps of demo, experiment and retrain: commands run in a workspace one after the other, and their results."""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import yaml

from config import params
from config.command import UserError
from config.current_user import current_user
from config.paths import EXPERIMENTS, ROOT, STATE, state
from experiments.orchestration import workspace

RESULTS = ROOT / "experiments" / "results"


def environment() -> dict[str, str]:
    """The environment of the commands: one state folder for all datasets, and this interpreter for every stage."""
    own = {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
        STATE: str(state().resolve()),
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "DO_NOT_TRACK": "true",
        "DVC_NO_ANALYTICS": "true",
        "GIT_PYTHON_REFRESH": "quiet",
    }
    return {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | own


def step(title: str, module: str, arguments: list[str], folder: Path, env: dict[str, str]) -> None:
    """Run `python -m module` in a folder and show its output. Raises UserError if it fails."""
    print(f"\n=== {title}", flush=True)
    begun = time.perf_counter()
    command = [sys.executable, "-m", module, *arguments]
    code = subprocess.run(command, cwd=folder, env=env, check=False).returncode
    if code:
        raise UserError(_failure(title, command, code))
    print(f"=== {time.perf_counter() - begun:.0f} s", flush=True)


def _failure(title: str, command: list[str], code: int) -> str:
    return f"{title} failed ({' '.join(command[1:])} ended with {code}); the reason is in the output above"


class Progress:
    """Runs commands and reports each as `step 4 of 13, 0:42: ...`, with what it printed indented below.

    Args:
        folder: project or workspace in which commands run.
        target: the stage of dvc.yaml that the pipeline is run up to.
        further: how many commands follow the pipeline.
    """

    def __init__(self, folder: Path, env: dict[str, str], target: str, further: int) -> None:
        self._folder, self._env, self._target = folder, env | {"PYTHONUNBUFFERED": "1", "PYTHONUTF8": "1"}, target
        self._stages = stages_up_to(target, yaml.safe_load((folder / "dvc.yaml").read_text(encoding="utf-8")))
        self._done, self._total, self._begun = 0, len(self._stages) + further, time.monotonic()

    def announce(self, title: str) -> None:
        """Print the line of the next step."""
        self._done += 1
        minutes, seconds = divmod(int(time.monotonic() - self._begun), 60)
        print(f"step {self._done} of {self._total}, {minutes}:{seconds:02}: {title}", flush=True)

    def run(self, title: str, module: str, *arguments: str, folder: Path | None = None) -> None:
        """Run `python -m module` as one step. Raises UserError if it fails."""
        self.announce(title)
        self._execute(title, [module, *arguments], folder or self._folder, lambda line: None)

    def pipeline(self, titles: Mapping[str, str]) -> None:
        """Run the stages that have changed, each as one step.

        `titles` describe the stages by name; `{model}` stands for the model of a matrix stage.
        """

        def stage_title(line: str) -> str | None:
            if not (found := DVC_STAGE.match(line)):
                return None
            name, _, model = found["name"].partition("@")
            return titles.get(name, name).format(model=model) + ("" if found["runs"] else " (unchanged)")

        self._execute("the pipeline", ["dvc", "repro", self._target], self._folder, stage_title)

    def _execute(self, title: str, command: list[str], folder: Path, begins: Callable[[str], str | None]) -> None:
        command = [sys.executable, "-m", *command]
        with subprocess.Popen(
            command,
            cwd=folder,
            env=self._env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
        ) as process:
            assert process.stdout is not None
            for line in map(str.rstrip, process.stdout):
                if step_title := begins(line):
                    self.announce(step_title)
                elif not NOISE.match(line):
                    print(f"  {line}", flush=True)
        if process.returncode:
            raise UserError(_failure(title, command, process.returncode))


# Output of DVC: the start of a stage (or that it is skipped). NOISE: lines of DVC and MLflow that do not help a reader.
DVC_STAGE = re.compile(r"(?:(?P<runs>Running) stage|Stage) '(?P<name>[^']+)'(?::| didn't change| is cached)")
NOISE = re.compile(
    r"$|> PATH=|(Updating|Generating) lock file|To track the changes|To enable auto|\s*(git add|dvc config)|Use `dvc push`"
    r"|\S+ \S+ INFO mlflow\."
)


def stages_up_to(target: str, pipeline: dict) -> list[str]:
    """The stages of dvc.yaml from the first to `target`, in their order; a matrix stage once for each of its models."""
    variables = {f"${{{name}}}": value for one in pipeline["vars"] for name, value in one.items()}
    names: list[str] = []
    for name, stage in pipeline["stages"].items():
        models = variables[stage["matrix"]["model"]] if "matrix" in stage else []
        names += [f"{name}@{model}" for model in models] if "matrix" in stage else [name]
        if name == target:
            break
    return names


def data_and_features(folder: Path, env: dict[str, str]) -> None:
    """Run the stages up to the features, then leave out models that cannot hold so many items."""
    step("data and features", "dvc", ["repro", "featurize"], folder, env)
    for reason in workspace.leave_out_large_models(folder):
        print(f"=== {reason}", flush=True)


def pipeline(folder: Path, env: dict[str, str]) -> None:
    """Run the stages that have changed up to the leaderboard, then the leakage audit."""
    title = "pipeline: ingest, split, featurize, train, export, evaluate, compare"
    step(title, "dvc", ["repro", "compare"], folder, env)
    step("audit for leaks", "experiments.audit", [], folder, env)


def publish(folder: Path, dataset: str) -> None:
    """Copy a workspace's results into the project: the only tracked files that another source changes."""
    RESULTS.mkdir(exist_ok=True)  # a clone without committed results has none
    for suffix in ("json", "md"):
        shutil.copyfile(folder / "experiments" / "results" / f"{dataset}.{suffix}", RESULTS / f"{dataset}.{suffix}")


def leaderboard(dataset: str, folder: Path = ROOT) -> str:
    """The leaderboard in experiments/results/<dataset>.json of a folder, as text."""
    from experiments.leaderboard.report import text_summary

    result = json.loads((folder / "experiments" / "results" / f"{dataset}.json").read_text(encoding="utf-8"))
    return text_summary(result, params.load(ROOT / "params.yaml").gate.primary)


def verdict(folder: Path) -> str:
    """The verdict of the last gate report, its label and reason, in one line."""
    report = gate_report(folder)
    return f"Gate: {report['verdict']}: {report['label']}: {report['reason']}"


def undecided(folder: Path) -> str:
    """What the last audit and gate of a workspace could not decide, as lines; "" if nothing."""
    from experiments.gating import report_page
    from experiments.leakage import report as leakage_report

    report = gate_report(folder)
    audit = json.loads((folder / leakage_report.REPORT).read_text(encoding="utf-8"))
    names = [f"audit: {name}" for name in leakage_report.undecided(audit)]
    if report["verdict"] == "INSUFFICIENT_DATA":
        names.append(f"gate: whether {report['label']} is better than the champion, which stays")
        names += [f"gate: {row.name}" for row in report_page.checks(report) if row.state == report_page.NOT_DECIDED]
    return "\n".join(["Not decided:", *(f"  {name}" for name in names)]) if names else ""


def gate_report(folder: Path) -> dict:
    """The last gate report of a workspace."""
    return json.loads((folder / EXPERIMENTS / "gate.json").read_text(encoding="utf-8"))


class AlreadyRunningError(Exception):
    """Another process does the same. The message names its process, user and start."""


@contextmanager
def only_one(path: Path, what: str) -> Iterator[None]:
    """Hold a lock during the block; AlreadyRunningError if another process holds it. A killed process holds none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise AlreadyRunningError(f"{what} runs already: {file.read().strip() or 'since a moment ago'}") from None
        file.truncate(0)
        file.write(f"pid {os.getpid()} by {current_user()}, since {datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}\n")
        file.flush()
        yield
