"""Whether the code that judges, and judged models were fitted by, is what the commit says."""

from __future__ import annotations

import os
import subprocess
from typing import NamedTuple

from params import ROOT
from training import provenance

CODE = ("*.py", "requirements*.lock", "dvc.yaml", "pyproject.toml")  # settings stand in the reports themselves
CHANGES = "+changes"


class Checkout(NamedTuple):
    """The commit, and in words what is wrong with it.

    Attributes:
        changed: which tracked code or locks differ from it; None where none does.
        unknown: why that cannot be known; None where it is.
    """

    commit: str
    changed: str | None
    unknown: str | None


def state() -> Checkout:
    """Of this checkout. A workspace, which is a copy, believes what the verb that made it stated."""
    commit = provenance.commit()
    if commit == "unknown":
        return Checkout(commit, None, "git is not here, or this is no checkout: nobody can say which code this is")
    if "TIDEGATE_COMMIT" in os.environ:
        changed = "tracked code differs from the commit (git status names it)" if commit.endswith(CHANGES) else None
        return Checkout(commit, changed, None)
    try:
        _git("ls-files", "--error-unmatch", "params.py")
    except subprocess.CalledProcessError:
        return Checkout("unknown", None, "git does not track this copy of the code")
    names = [line[3:] for line in _git("status", "--porcelain", "--untracked-files=no", "--", *CODE).splitlines()]
    return Checkout(commit, _few(names) if names else None, None)


def _few(names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"{', '.join(names[:3])}{more}"


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True).stdout
