"""What made a result: the commit and the locked dependencies."""

from __future__ import annotations

import hashlib
import os
import subprocess

from config.paths import ROOT

# Code and locks. Settings are not listed: results contain them.
CODE_FILES = ("*.py", "requirements*.lock", "dvc.yaml", "pyproject.toml")
CODE_FOLDERS = ("config/", "data/", "features/", "training/", "serving/", "experiments/")
CHANGES_SUFFIX = "+changes"
UNKNOWN = "unknown"
LOCAL_VARIABLES = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE")  # set in hooks: they lead git to another repository


class UnknownCommitError(Exception):
    """The commit of this folder cannot be known; the text says why."""


def commit() -> str:
    """The commit of the checkout, `+changes` where code differs from it, `unknown` outside git."""
    if known := os.environ.get("TIDEGATE_COMMIT"):  # set in a workspace, which is a copy without git
        return known
    try:
        head, changed = checkout()
    except UnknownCommitError:
        return UNKNOWN
    return f"{head}{CHANGES_SUFFIX}" if changed else head


def checkout() -> tuple[str, list[str]]:
    """The commit of this folder, and its code files that differ from it; new ones count inside the code folders.

    Raises:
        UnknownCommitError: this folder is not the top level of a git repository that tracks it. A copy inside another
            repository does not have the commit of that one.
    """
    if _git("rev-parse", "--show-prefix"):
        raise UnknownCommitError("this folder lies inside another git repository")
    _git("ls-files", "--error-unmatch", "params.yaml")
    head = _git("rev-parse", "HEAD")
    status = _git("status", "--porcelain", "--untracked-files=all", "--", *CODE_FILES).splitlines()
    changes = [(line[:2], line[3:]) for line in status]
    return head, [name for state, name in changes if state != "??" or name.startswith(CODE_FOLDERS)]


def lock_hash() -> str:
    """BLAKE2b of the locked dependencies."""
    return hashlib.blake2b((ROOT / "requirements.lock").read_bytes(), digest_size=16).hexdigest()


def _git(*arguments: str) -> str:
    """What git prints. Raises UnknownCommitError if it fails."""
    env = {name: value for name, value in os.environ.items() if name not in LOCAL_VARIABLES}
    command = ["git", "--no-optional-locks", "-c", "core.quotePath=false", *arguments]
    try:
        done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, encoding="utf-8", errors="replace")
    except OSError:
        raise UnknownCommitError("git is not installed") from None
    if "safe.directory" in done.stderr:
        raise UnknownCommitError(
            f"the checkout belongs to another user; `git config --global --add safe.directory {ROOT}` lets git read it"
        )
    if done.returncode:
        raise UnknownCommitError("this is not a git checkout, or git does not track it")
    return done.stdout.rstrip()
