"""What made a result: the commit and the locked dependencies.

The commit is never taken from the environment. Every code file is compared with the commit by its hash, in the project and in
a workspace, which is a copy of the project inside it and names the commit that it was copied at.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath

import yaml

from config.paths import PROJECT, ROOT

CODE_FILES = ("*.py", "requirements*.lock", "dvc.yaml", "pyproject.toml", "params.yaml")
CODE_FOLDERS = ("config/", "web/", "data/", "features/", "training/", "serving/", "experiments/")
# Of a workspace: orchestration copies the code and these files, and writes dvc.yaml and these sections of params.yaml.
COPIED_FILES = ("requirements.lock",)
WRITTEN_SECTIONS = ("dataset", "ingest", "split", "train", "tune")  # artifacts and reports contain what they were
COMMIT_FILE = "commit.txt"  # of a workspace
CHANGES_SUFFIX = "+changes"
UNKNOWN = "unknown"


class UnknownCommitError(Exception):
    """The commit of this folder cannot be known; the text says why."""


def is_repository() -> bool:
    """Whether the project is a git repository, also where git cannot be run or does not read it."""
    return (PROJECT / ".git").exists()


def commit() -> str:
    """The commit of the code, `+changes` where it differs from it, `unknown` outside git."""
    try:
        head, changed = checkout()
    except UnknownCommitError:
        return UNKNOWN
    return f"{head}{CHANGES_SUFFIX}" if changed else head


def checkout() -> tuple[str, list[str]]:
    """The commit of this code, and the code files that differ from it; new ones count inside the code folders.

    Raises:
        UnknownCommitError: the project is not the top level of a git repository that tracks it (a copy inside another
            repository does not have the commit of that one), or a workspace names no commit of it.
    """
    if _git("rev-parse", "--show-prefix"):
        raise UnknownCommitError("this folder lies inside another git repository")
    _git("ls-files", "--error-unmatch", "params.yaml")
    if ROOT == PROJECT:
        head = _git("rev-parse", "HEAD")
        return head, _differing(head, _is_code)
    try:
        named, *changed_at_copy = (ROOT / COMMIT_FILE).read_text(encoding="utf-8").splitlines()
        head = _git("rev-parse", "--verify", f"{named}^{{commit}}")
    except (OSError, ValueError, UnknownCommitError):
        raise UnknownCommitError(
            "this workspace names no commit of the project; run the command that made it"
        ) from None
    now = [*_differing(head, _is_copied), *(f"params.yaml: {name}" for name in _changed_sections(head))]
    return head, list(dict.fromkeys([*changed_at_copy, *now]))


def committed_settings() -> dict:
    """What params.yaml holds in the last commit of the project. Raises UnknownCommitError outside git."""
    _git("ls-files", "--error-unmatch", "params.yaml")
    try:
        return yaml.safe_load(_git("show", "HEAD:./params.yaml"))
    except yaml.YAMLError:
        raise UnknownCommitError("params.yaml of the last commit is not YAML") from None


def lock_hash() -> str:
    """BLAKE2b of the locked dependencies."""
    return hashlib.blake2b((ROOT / "requirements.lock").read_bytes(), digest_size=16).hexdigest()


def write_commit(workspace: Path) -> None:
    """Write into a workspace at which commit it was copied and what was changed then; nothing if that is unknown."""
    try:
        head, changed = checkout()
    except UnknownCommitError:
        (workspace / COMMIT_FILE).unlink(missing_ok=True)
    else:
        (workspace / COMMIT_FILE).write_text("".join(f"{line}\n" for line in (head, *changed)), encoding="utf-8")


def _differing(head: str, counts: Callable[[str], bool]) -> list[str]:
    """Files that count as code and are not as in the commit. By hash, because git can be told to overlook a change."""
    entries = (line.split("\t", 1) for line in _git("ls-tree", "-r", "-z", head).split("\0") if line)
    tracked = {name: about.split()[2] for about, name in entries if counts(name)}
    changed = [name for name, blob in tracked.items() if _blob_of(ROOT / name, blob) != blob]
    return sorted([*changed, *(name for name in _code_in_folders() if name not in tracked)])


def _is_code(name: str) -> bool:
    return any(PurePosixPath(name).match(pattern) for pattern in CODE_FILES)


def _is_copied(name: str) -> bool:
    return name in COPIED_FILES or (name.startswith(CODE_FOLDERS) and name.endswith(".py"))


def _code_in_folders() -> Iterator[str]:
    for folder in CODE_FOLDERS:
        yield from (path.relative_to(ROOT).as_posix() for path in (ROOT / folder).rglob("*.py"))


def _blob_of(path: Path, like: str) -> str | None:
    """The name that git gives to a file's content, by the hash of the repository; None if there is no file."""
    try:
        content = path.read_bytes()
    except OSError:
        return None
    algorithm = "sha1" if len(like) == 40 else "sha256"
    return hashlib.new(algorithm, b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def _changed_sections(head: str) -> list[str]:
    """Sections of a workspace's params.yaml that differ from the commit's, of those that orchestration does not write."""
    ours, committed = (
        yaml.safe_load(text) or {}
        for text in ((ROOT / "params.yaml").read_text(encoding="utf-8"), _git("show", f"{head}:params.yaml"))
    )
    names = sorted({*ours, *committed} - {*WRITTEN_SECTIONS})
    return [name for name in names if ours.get(name) != committed.get(name)]


def _git(*arguments: str) -> str:
    """What git prints in the project. Raises UnknownCommitError if it fails."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}  # they lead git elsewhere
    command = ["git", "--no-optional-locks"]
    for name, key in os.environ.items():  # of these only who may own the checkout
        if name.startswith("GIT_CONFIG_KEY_") and key.lower() == "safe.directory":
            command += ["-c", f"safe.directory={os.environ.get(name.replace('KEY', 'VALUE'), '')}"]
    command += arguments
    try:
        done = subprocess.run(command, cwd=PROJECT, env=env, capture_output=True, encoding="utf-8", errors="replace")
    except OSError:
        raise UnknownCommitError("git is not installed") from None
    if "safe.directory" in done.stderr:
        raise UnknownCommitError(
            f"the checkout belongs to another user; `git config --global --add safe.directory {PROJECT}` lets git read it"
        )
    if done.returncode:
        raise UnknownCommitError("this is not a git checkout, or git does not track it")
    return done.stdout.rstrip()
