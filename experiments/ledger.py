"""Every look at a test window, who looked and what came of it: the gate's alpha is divided by the looks."""

from __future__ import annotations

import json
from pathlib import Path

LEDGER = Path("experiments/out/ledger.jsonl")


def entries(split_id: str, path: Path = LEDGER) -> list[dict]:
    """Looks at one window, oldest first."""
    if not path.exists():
        return []
    every = [json.loads(line) for line in path.read_text().splitlines() if line.strip()]
    return [entry for entry in every if entry["split_id"] == split_id]


def known(split_id: str, candidate: str, champion: str, policy: dict, path: Path = LEDGER) -> dict | None:
    """The report of an earlier look at the same two artifacts under the same policy: nothing to look at anew."""
    for entry in entries(split_id, path):
        if (entry["candidate"], entry["champion"], entry["policy"]) == (candidate, champion, policy):
            return entry["report"]
    return None


def append(entry: dict, path: Path = LEDGER) -> None:
    """Write a look down."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as stream:
        stream.write(json.dumps(entry, sort_keys=True) + "\n")
