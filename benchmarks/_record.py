"""A benchmark's figures with what they were measured on."""

from __future__ import annotations

import json
import os
import platform
import sys
from datetime import UTC, datetime
from pathlib import Path

from params import ROOT
from training import provenance

RESULTS = ROOT / "benchmarks" / "results"


def write(name: str, figures: dict) -> Path:
    """Write results/<name>.json: figures, command, commit, date, machine; its path from the project's root."""
    about = {
        "command": f"python -m benchmarks.{name} {' '.join(sys.argv[1:])}".strip(),
        "commit": provenance.commit(),
        "date": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
    }
    path = RESULTS / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(figures | about, indent=1) + "\n")
    return path.relative_to(ROOT)
