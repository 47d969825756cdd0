"""What trace, impact and replay found, in parts: as text for a terminal, and as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

ROWS_SHOWN = 10  # of a table in text; JSON and the page hold all
WIDEST = 110


@dataclass(frozen=True)
class Part:
    """One link of a lineage.

    Attributes:
        facts: name -> value: text, a number, a list or a dictionary; None where it is not known.
        rows: a table; all rows have the keys of the first.
        note: what is missing or wrong, and where it was looked for; empty where nothing is.
    """

    name: str
    facts: Mapping[str, Any] = field(default_factory=dict)
    rows: Sequence[Mapping[str, Any]] = ()
    note: str = ""


def as_json(title: str, parts: Sequence[Part]) -> str:
    told: dict[str, Any] = {"title": title}
    for part in parts:
        told[part.name] = {**part.facts, "rows": list(part.rows), "note": part.note}
    return json.dumps(told, indent=1, ensure_ascii=False, default=str)


def as_text(title: str, parts: Sequence[Part]) -> str:
    return "\n".join([title, *(line for part in parts for line in _lines(part))])


def shown(value: Any) -> str:
    """A value as a person reads it."""
    if value is None:
        return "-"
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {shown(one)}" for name, one in value.items()) or "-"
    if isinstance(value, list | tuple):
        return ", ".join(map(shown, value)) or "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _lines(part: Part) -> list[str]:
    width = max((len(name) for name in part.facts), default=0)
    facts = [f"  {name:<{width}}  {_cut(shown(value))}" for name, value in part.facts.items()]
    return ["", part.name.upper(), *facts, *_table(part.rows), *([f"  ! {part.note}"] if part.note else [])]


def _table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    if not rows:
        return []
    names = list(rows[0])
    cells = [names, *([shown(row[name]) for name in names] for row in rows[:ROWS_SHOWN])]
    widths = [max(len(line[column]) for line in cells) for column in range(len(names))]
    lines = ["  " + "  ".join(map(str.ljust, line, widths)).rstrip() for line in cells]
    more = len(rows) - ROWS_SHOWN
    return [*lines, f"  ... and {more:,} more (--json and --html hold them)"] if more > 0 else lines


def _cut(text: str) -> str:
    return text if len(text) <= WIDEST else text[: WIDEST - 3] + "..."
