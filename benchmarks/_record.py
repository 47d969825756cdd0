"""A benchmark's figures with what they were measured on."""

from __future__ import annotations

import json
import os
import platform
import sys
from datetime import UTC, datetime
from pathlib import Path

from config.paths import ROOT
from training import provenance

RESULTS = ROOT / "benchmarks" / "results"


def write(name: str, figures: dict) -> Path:
    """Write results/<name>.json: figures, command, commit, date, machine; its path from the project's root."""
    about = {
        "command": " ".join(["python -m", f"benchmarks.{name}", *map(_shown, sys.argv[1:])]),
        "commit": provenance.commit(),
        "date": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
    }
    path = RESULTS / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(figures | about, indent=1) + "\n")
    return path.relative_to(ROOT)


def _shown(argument: str) -> str:
    """An argument as others may read it: of an absolute path its last folder and name, not where this machine has it."""
    path = Path(argument)
    return "/".join(path.parts[-2:]) if path.is_absolute() else argument
