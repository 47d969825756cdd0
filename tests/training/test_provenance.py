"""The commit of a result: known only where this folder is the top level of a git repository that tracks it."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from training import provenance
from training.provenance import UnknownCommitError

FILES = ("params.yaml", "training/code.py", "requirements.lock", "notes.txt")


def git(folder: Path, *arguments: str) -> str:
    command = ["git", "-c", "user.name=t", "-c", "user.email=t@t", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, encoding="utf-8", check=True).stdout.strip()


def use(project: Path, monkeypatch: pytest.MonkeyPatch, code: Path | None = None) -> None:
    """Take a folder for the project, and for the code that runs."""
    monkeypatch.setattr(provenance, "PROJECT", project)
    monkeypatch.setattr(provenance, "ROOT", code or project)


@pytest.fixture
def outer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A git repository with one commit, which provenance takes for the project."""
    for name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"):
        monkeypatch.delenv(name, raising=False)
    repository = tmp_path / "überall"
    for name in FILES:
        (repository / name).parent.mkdir(parents=True, exist_ok=True)
        (repository / name).write_text("1\n", encoding="utf-8")
    for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "first"]):
        git(repository, *command)
    use(repository, monkeypatch)
    return repository


def test_a_checkout_has_its_commit_also_in_a_hook_of_another_repository(
    outer: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    head = git(outer, "rev-parse", "HEAD")
    monkeypatch.setenv("GIT_DIR", "/nowhere")

    assert provenance.commit() == head


@pytest.mark.parametrize("name", ["params.yaml", "requirements.lock", "training/code.py", "training/new.py"])
def test_changed_and_new_code_and_settings_mark_the_commit(name: str, outer: Path) -> None:
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
    use(copy, monkeypatch)

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
    use(tmp_path / "shallow", monkeypatch)

    assert provenance.commit() == git(outer, "rev-parse", "HEAD")


def test_without_git_the_commit_is_unknown(outer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))

    assert provenance.commit() == "unknown"
    with pytest.raises(UnknownCommitError, match="git is not installed"):
        provenance.checkout()


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a folder to another user")
def test_a_checkout_of_another_user_is_read_once_the_environment_says_so_and_git_gets_no_more_of_it(
    outer: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(outer.parent))
    for path in (outer, outer / ".git"):
        os.chown(path, 12345, 12345)

    assert provenance.commit() == "unknown"
    with pytest.raises(UnknownCommitError, match=r"belongs to another user.*safe\.directory"):
        provenance.checkout()
    settings = {"core.abbrev": "no number", "safe.directory": outer}  # git refuses to run with the first
    monkeypatch.setenv("GIT_CONFIG_COUNT", str(len(settings)))
    for number, (key, value) in enumerate(settings.items()):
        monkeypatch.setenv(f"GIT_CONFIG_KEY_{number}", key)
        monkeypatch.setenv(f"GIT_CONFIG_VALUE_{number}", str(value))
    assert provenance.checkout()[1] == []


def test_the_environment_cannot_declare_changed_code_clean(outer: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    head = git(outer, "rev-parse", "HEAD")
    (outer / "training/code.py").write_text("2\n", encoding="utf-8")
    (outer / "training/new.py").write_text("2\n", encoding="utf-8")
    (outer.parent / "ignored").write_text("*.py\n", encoding="utf-8")
    monkeypatch.setenv("TIDEGATE_COMMIT", head)
    monkeypatch.setenv("GIT_CONFIG_COUNT", "1")
    monkeypatch.setenv("GIT_CONFIG_KEY_0", "core.excludesFile")
    monkeypatch.setenv("GIT_CONFIG_VALUE_0", str(outer.parent / "ignored"))
    git(outer, "update-index", "--assume-unchanged", "training/code.py")

    assert provenance.checkout() == (head, ["training/code.py", "training/new.py"])
    assert provenance.commit() == f"{head}+changes"


def test_committed_settings_are_those_of_the_commit(
    outer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (outer / "params.yaml").write_text("gate: {alpha: 0.05}\n", encoding="utf-8")
    git(outer, "commit", "-qam", "settings")
    (outer / "params.yaml").write_text("gate: {alpha: 0.5}\n", encoding="utf-8")
    assert provenance.committed_settings() == {"gate": {"alpha": 0.05}}
    use(tmp_path, monkeypatch)
    with pytest.raises(UnknownCommitError):
        provenance.committed_settings()


# --- a workspace, which is a copy of the project


@pytest.fixture
def workspace(outer: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy with its own settings, and provenance of the code in it."""
    (outer / "params.yaml").write_text("dataset: demo\ngate:\n  alpha: 0.05\n", encoding="utf-8")
    git(outer, "commit", "-qam", "settings")
    return copied(outer, monkeypatch)


def copied(project: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = project / "out/workspaces/shop"
    shutil.copytree(project / "training", folder / "training")
    shutil.copyfile(project / "requirements.lock", folder / "requirements.lock")
    text = (project / "params.yaml").read_text(encoding="utf-8")
    (folder / "params.yaml").write_text(text.replace("demo", "shop"), encoding="utf-8")
    provenance.write_commit(folder)
    use(project, monkeypatch, folder)
    return folder


def test_a_workspace_has_the_commit_that_it_was_copied_at(outer: Path, workspace: Path) -> None:
    head = git(outer, "rev-parse", "HEAD")
    assert provenance.checkout() == (head, [])
    (outer / "training/code.py").write_text("3\n", encoding="utf-8")
    git(outer, "commit", "-qam", "later")
    assert provenance.commit() == head


@pytest.mark.parametrize(
    ("name", "text", "changed"),
    [
        ("training/code.py", "2\n", "training/code.py"),
        ("training/new.py", "2\n", "training/new.py"),
        ("requirements.lock", "2\n", "requirements.lock"),
        ("params.yaml", "dataset: shop\ngate:\n  alpha: 0.5\n", "params.yaml: gate"),
        ("params.yaml", "dataset: shop\n", "params.yaml: gate"),
    ],
)
def test_a_change_in_a_workspace_marks_its_commit_whatever_the_environment_says(
    workspace: Path, name: str, text: str, changed: str, outer: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    head = git(outer, "rev-parse", "HEAD")
    monkeypatch.setenv("TIDEGATE_COMMIT", head)
    (workspace / name).write_text(text, encoding="utf-8")
    assert provenance.checkout() == (head, [changed])


def test_code_that_is_missing_in_a_workspace_marks_its_commit(workspace: Path) -> None:
    (workspace / "training/code.py").unlink()
    assert provenance.checkout()[1] == ["training/code.py"]


def test_a_copy_of_uncommitted_settings_marks_the_commit(outer: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (outer / "params.yaml").write_text("train: 6\n", encoding="utf-8")
    git(outer, "commit", "-qam", "settings")
    (outer / "params.yaml").write_text("train: 7\n", encoding="utf-8")
    copied(outer, monkeypatch)
    git(outer, "checkout", "-q", "params.yaml")
    assert provenance.checkout()[1] == ["params.yaml"]


@pytest.mark.parametrize("text", ["", "0123456789012345678901234567890123456789\n", "--all\n", "\xff"])
def test_a_workspace_that_names_no_commit_of_the_project_has_none(workspace: Path, text: str) -> None:
    (workspace / provenance.COMMIT_FILE).write_text(text, encoding="latin-1")
    with pytest.raises(UnknownCommitError, match="this workspace names no commit of the project"):
        provenance.checkout()
