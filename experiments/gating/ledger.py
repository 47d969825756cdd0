"""Every look at a test window, who looked and what came of it: the gate's alpha is divided by the looks."""

from __future__ import annotations

import getpass
import json
from pathlib import Path
from typing import Any

LEDGER = Path("experiments/out/ledger.jsonl")


def entries(split_id: str, path: Path = LEDGER) -> list[dict]:
    """Looks at one window, oldest first."""
    if not path.exists():
        return []
    every = [json.loads(line) for line in path.read_text().splitlines() if line.strip()]
    return [entry for entry in every if entry["split_id"] == split_id]


def known(split_id: str, candidate: str, champion: str, policy_hash: str, path: Path = LEDGER) -> dict | None:
    """The report of an earlier look at the same two artifacts under the same policy: nothing to look at anew."""
    for entry in entries(split_id, path):
        of = entry["candidate"], entry["champion"], entry["report"].get("policy_hash")
        if of == (candidate, champion, policy_hash):
            return entry["report"]
    return None


def append(split_id: str, candidate: str, champion: str, report: dict[str, Any], path: Path = LEDGER) -> None:
    """Write a look down."""
    path.parent.mkdir(parents=True, exist_ok=True)
    entry = {"split_id": split_id, "candidate": candidate, "champion": champion, "who": _who(), "date": report["date"],
             "report": report}  # fmt: skip
    with path.open("a") as stream:
        stream.write(json.dumps(entry, sort_keys=True) + "\n")


def _who() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        return "unknown"
