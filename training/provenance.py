"""What made a result: the commit and the locked dependencies."""

from __future__ import annotations

import hashlib
import os
import subprocess

from config.paths import ROOT


def commit() -> str:
    """The commit of the checkout, `+changes` where tracked code differs from it, `unknown` outside git."""
    if known := os.environ.get("TIDEGATE_COMMIT"):  # set in a workspace, which is a copy without git
        return known
    try:
        head = _git("rev-parse", "HEAD")
        changed = _git("status", "--porcelain", "--untracked-files=no", "--", "*.py", "requirements.lock")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return f"{head}+changes" if changed else head


def lock_hash() -> str:
    """BLAKE2b of the locked dependencies."""
    return hashlib.blake2b((ROOT / "requirements.lock").read_bytes(), digest_size=16).hexdigest()


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, encoding="utf-8", check=True)
    return done.stdout.strip()
