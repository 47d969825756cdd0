"""What a recorded request stated that its line in the served log does not hold, where the edge was told to keep it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from experiments.lineage.served_lines import REQUESTS, LineageError, ServedLines


def unlogged(line: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """What a request stated beyond its line in the served log.

    Raises:
        LineageError: it was not kept.
    """
    if "basis" not in line:
        raise LineageError("this line was written before answers could be replayed: it does not say what was asked")
    if not line["unlogged"]:
        return {}
    kept = bodies(folder, [line])
    if not kept:
        stated = " and ".join(line["unlogged"])
        raise LineageError(
            f"the request stated {stated}, which no line of the served log holds, and {folder.parent / REQUESTS} does "
            "not hold it either: the edge keeps requests only where TIDEGATE_EDGE_KEEP_REQUESTS is true"
        )
    return kept[line["request_id"], line["asked"]]


def bodies(folder: Path, lines: Iterable[Mapping[str, Any]]) -> dict[tuple[str, str], dict[str, Any]]:
    """(request id, asked) -> what the request stated, of those lines that do not hold all of it, where it was kept."""
    wanted = {(line["request_id"], line["asked"]) for line in lines if line.get("unlogged")}
    kept = ServedLines(folder.parent / REQUESTS, REQUESTS)
    each = (((one["request_id"], one["asked"]), one["body"]) for one in kept.each())
    return {name: body for name, body in each if name in wanted}


def given_before(line: Mapping[str, Any], folder: Path) -> str:
    """Why an answer that repeats an earlier one is not computed, and which one to ask for."""
    lines = ServedLines(folder).each()
    same = [one for one in lines if (one["user"], one["time"]) == (line["user"], line["time"])]
    first = next((one["request_id"] for one in same if one["rung"] != "cached"), None)
    where = f"replay {first!r}" if first else f"its own line is not in {folder}"
    return f"this answer repeats the user's answer of {line['time']}, since nothing could be computed; {where}"
