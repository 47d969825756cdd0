"""`.ci/reproduce` pulls and pushes results only if a DVC remote is set."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


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
