"""What skew was measured, as the gate reads it: experiments/out/skew.json, of the last measurement alone."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from command import UserError

OUT = Path("experiments/out")
KEYS = {"dataset", "dataset_hash", "date", "answers", "groups"}


def write(record: Mapping[str, Any], page: str) -> None:
    """skew.json and skew.html."""
    OUT.mkdir(parents=True, exist_ok=True)
    text = json.dumps(record, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    (OUT / "skew.json").write_text(text, encoding="utf-8")
    (OUT / "skew.html").write_text(page, encoding="utf-8")


def last(dataset: str) -> dict[str, Any] | None:
    """The last measurement; None where there is none of this data set.

    Raises:
        UserError: the file is none of ours.
    """
    path = OUT / "skew.json"
    if not path.is_file():
        return None
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        sound = record.keys() >= KEYS and all(
            isinstance(found[key], int | float) for found in record["groups"].values() for key in ("compared", "high")
        )
    except (ValueError, AttributeError, KeyError, TypeError):
        sound = False
    if not sound:
        raise UserError(f"{path} is no record of skew; `python -m experiments.skew` writes one, or remove it")
    return record if record["dataset"] == dataset else None


def rate(found: Mapping[str, Any]) -> str:
    """`98.0% [96.0%, 99.0%] of 200 match`."""
    if not found["compared"]:
        return "not measured"
    return f"{found['match_rate']:.1%} [{found['low']:.1%}, {found['high']:.1%}] of {found['compared']:,} match"
