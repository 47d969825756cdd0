"""Result files of benchmarks: the figures, and what they were measured on."""

from __future__ import annotations

import json
import os
import platform
import sys
from pathlib import Path

from config.paths import ROOT
from data.times import now_iso
from training import provenance

RESULTS = ROOT / "benchmarks" / "results"


def write(name: str, figures: dict, dataset: str | None = None) -> Path:
    """Write results/<name>.json, or <name>-<dataset>.json, with figures, command, commit, date and machine.

    Returns its path from the project root.
    """
    origin = {
        "command": " ".join(["python -m", f"benchmarks.{name}", *map(_shorten, sys.argv[1:])]),
        "commit": provenance.commit(),
        "date": now_iso(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
    }
    path = RESULTS / (f"{name}.json" if dataset is None else f"{name}-{dataset}.json")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(figures | origin, indent=1) + "\n", encoding="utf-8")
    return path.relative_to(ROOT)


def _shorten(argument: str) -> str:
    """An absolute path as its last folder and name: the rest tells only where this machine keeps it."""
    path = Path(argument)
    return "/".join(path.parts[-2:]) if path.is_absolute() else argument
