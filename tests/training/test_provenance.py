"""The commit of a result: known only where this folder is the top level of a git repository that tracks it."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from training import provenance
from training.provenance import UnknownCommitError

FILES = ("params.yaml", "training/code.py", "requirements.lock", "notes.txt")


def git(folder: Path, *arguments: str) -> str:
    command = ["git", "-c", "user.name=t", "-c", "user.email=t@t", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, encoding="utf-8", check=True).stdout.strip()


@pytest.fixture
def outer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A git repository with one commit, which provenance takes for the project."""
    for name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "TIDEGATE_COMMIT"):
        monkeypatch.delenv(name, raising=False)
    repository = tmp_path / "überall"
    for name in FILES:
        (repository / name).parent.mkdir(parents=True, exist_ok=True)
        (repository / name).write_text("1\n", encoding="utf-8")
    for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "first"]):
        git(repository, *command)
    monkeypatch.setattr(provenance, "ROOT", repository)
    return repository


def test_a_checkout_has_its_commit_also_in_a_hook_of_another_repository(
    outer: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    head = git(outer, "rev-parse", "HEAD")
    monkeypatch.setenv("GIT_DIR", "/nowhere")

    assert provenance.commit() == head


@pytest.mark.parametrize("name", ["requirements.lock", "training/code.py", "training/new.py"])
def test_changed_and_new_code_marks_the_commit(name: str, outer: Path) -> None:
    (outer / name).write_text("2\n", encoding="utf-8")

    assert provenance.commit() == f"{git(outer, 'rev-parse', 'HEAD')}+changes"
    assert provenance.checkout()[1] == [name]


@pytest.mark.parametrize("name", ["notes.txt", "scratch.py"])
def test_notes_and_new_files_outside_the_code_leave_the_commit(name: str, outer: Path) -> None:
    (outer / name).write_text("2\n", encoding="utf-8")

    assert provenance.commit() == git(outer, "rev-parse", "HEAD")


def test_a_copy_inside_another_repository_has_no_commit(outer: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = outer / "vendored"
    copy.mkdir()
    (copy / "params.yaml").write_text("1\n", encoding="utf-8")
    git(outer, "add", ".")
    git(outer, "commit", "-qm", "vendor")
    monkeypatch.setattr(provenance, "ROOT", copy)

    assert provenance.commit() == "unknown"
    with pytest.raises(UnknownCommitError, match="inside another git repository"):
        provenance.checkout()


def test_a_copy_that_the_repository_does_not_track_has_no_commit(outer: Path) -> None:
    git(outer, "rm", "-q", "--cached", "params.yaml")

    assert provenance.commit() == "unknown"


def test_a_shallow_clone_has_its_commit(outer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (outer / "notes.txt").write_text("2\n", encoding="utf-8")
    git(outer, "commit", "-qam", "second")
    git(tmp_path, "clone", "-q", "--depth", "1", outer.as_uri(), "shallow")
    monkeypatch.setattr(provenance, "ROOT", tmp_path / "shallow")

    assert provenance.commit() == git(outer, "rev-parse", "HEAD")


def test_without_git_the_commit_is_unknown(outer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))

    assert provenance.commit() == "unknown"
    with pytest.raises(UnknownCommitError, match="git is not installed"):
        provenance.checkout()


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a folder to another user")
def test_a_checkout_of_another_user_says_how_git_reads_it(outer: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    for path in (outer, outer / ".git"):
        os.chown(path, 12345, 12345)

    assert provenance.commit() == "unknown"
    with pytest.raises(UnknownCommitError, match=r"belongs to another user.*safe\.directory"):
        provenance.checkout()
