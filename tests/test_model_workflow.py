"""Continuous integration of models: the workflow, `.ci/model` and the Makefile have the same steps."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
WORKFLOW = yaml.safe_load((ROOT / ".github/workflows/model.yml").read_text(encoding="utf-8"))
JOB = WORKFLOW["jobs"]["model"]
RUNS = [step["run"] for step in JOB["steps"] if "run" in step]


def test_the_workflow_has_the_steps_of_ci_model_in_the_same_order() -> None:
    lines = (ROOT / ".ci/model").read_text(encoding="utf-8").splitlines()
    local = [line.replace(" --no-print-directory", "") for line in lines if line.startswith("make")]

    assert local == [run for run in RUNS if run.startswith("make")] == ["make reproduce", "make gate", "make stage"]


def test_every_step_is_a_target_of_the_makefile() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))

    assert {run.split()[1] for run in RUNS if run.startswith("make")} <= targets


def test_every_verdict_is_commented_on_the_pull_request() -> None:
    (comment,) = [step for step in JOB["steps"] if "gh pr comment" in step.get("run", "")]

    assert "--body-file out/experiments/gate.md" in comment["run"]
    assert "!cancelled()" in comment["if"], "a deployment that fails must not hide the verdict"
    assert WORKFLOW["permissions"] == {"contents": "read", "pull-requests": "write"}


def test_the_workflow_contains_no_secret() -> None:
    for name in ("MLFLOW_TRACKING_URI", "TIDEGATE_GATE_KEY", "AWS_SECRET_ACCESS_KEY"):
        assert JOB["env"][name] == f"${{{{ secrets.{name} }}}}"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder in which `.ci/reproduce` finds a DVC that only records its calls."""
    (tmp_path / ".ci").mkdir()
    (tmp_path / ".ci/reproduce").write_bytes((ROOT / ".ci/reproduce").read_bytes())
    python = tmp_path / ".venv/bin/python"
    python.parent.mkdir(parents=True)
    python.write_text('#!/bin/sh\necho "$@" >> calls\n[ "$3" != "$FAILS" ]\n', encoding="utf-8")
    for path in (python, tmp_path / ".ci/reproduce"):
        path.chmod(0o755)
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    return tmp_path


def reproduce(project: Path, **env: str) -> tuple[int, list[str]]:
    ended = subprocess.run([project / ".ci/reproduce"], env={"PATH": os.environ["PATH"], **env}, capture_output=True)
    return ended.returncode, (project / "calls").read_text(encoding="utf-8").splitlines()


def test_without_a_remote_nothing_is_pulled_or_pushed(project: Path) -> None:
    assert reproduce(project) == (0, ["-m dvc repro compare"])


def test_an_unpacked_archive_needs_no_git(project: Path) -> None:
    shutil.rmtree(project / ".git")

    assert reproduce(project) == (0, ["-m dvc config --quiet --local core.no_scm true", "-m dvc repro compare"])


def test_with_a_remote_results_are_pulled_and_new_ones_pushed(project: Path) -> None:
    code, calls = reproduce(project, TIDEGATE_DVC_REMOTE="s3://bucket/path")

    assert code == 0
    assert calls == [
        "-m dvc remote add --quiet --local --force --default shared s3://bucket/path",
        "-m dvc repro --pull compare",
        "-m dvc push --run-cache",
    ]


def test_a_pipeline_that_fails_pushes_nothing(project: Path) -> None:
    code, calls = reproduce(project, TIDEGATE_DVC_REMOTE="s3://bucket/path", FAILS="repro")

    assert code != 0
    assert not any("push" in call for call in calls)
