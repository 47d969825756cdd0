"""What the gate knows of the code that is checked out: whether it is committed, and when nobody can say."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from config import params
from experiments.gating import preconditions
from experiments.gating.preconditions import Checkout


def test_a_clone_names_what_is_changed_and_not_committed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "config").mkdir()
    for name in ("config/params.py", "requirements.lock", "notes.txt"):
        (tmp_path / name).write_text("1\n")
    stated = ["git", "-c", "user.name=t", "-c", "user.email=t@t"]
    for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "first"]):
        subprocess.run([*stated, *command], cwd=tmp_path, check=True)
    monkeypatch.delenv("TIDEGATE_COMMIT", raising=False)
    monkeypatch.setattr(preconditions, "ROOT", tmp_path)
    monkeypatch.setattr(params, "ROOT", tmp_path)

    (tmp_path / "notes.txt").write_text("2\n")
    (tmp_path / "new.py").write_text("1\n")
    assert preconditions.state()[1:] == (None, None)
    (tmp_path / "requirements.lock").write_text("2\n")
    assert preconditions.state().changed == "requirements.lock"


@pytest.mark.parametrize("path", ["", "git"])
def test_without_git_the_report_says_that_the_code_is_unknown(
    path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TIDEGATE_COMMIT", raising=False)
    monkeypatch.setattr(preconditions, "ROOT", tmp_path)
    monkeypatch.setattr(params, "ROOT", tmp_path)
    if not path:
        monkeypatch.setenv("PATH", str(tmp_path))

    state = preconditions.state()

    assert state.changed is None
    assert state.unknown is not None
    assert "git is not here" in state.unknown


def test_a_workspace_believes_the_commit_that_its_maker_stated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIDEGATE_COMMIT", "0123+changes")
    assert preconditions.state().changed is not None
    monkeypatch.setenv("TIDEGATE_COMMIT", "0123")
    assert preconditions.state() == Checkout("0123", None, None)
