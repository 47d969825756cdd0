"""Reports of trace, impact, replay and skew: parts as text, JSON or HTML, and the options that these commands share."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

from data import pages
from experiments.lineage.served_log import Line
from serving.edge import settings as edge
from serving.edge.user_keys import UserKey, of_line, read_keys

MAX_ROWS = 10  # of a table in text; JSON and the page hold all
MAX_WIDTH = 110
STYLE = """section{border:1px solid #d8dee4;border-radius:.5rem;padding:.2rem 1rem 1rem;margin:0 0 1.6rem}
h2{font-size:1rem;margin:.7rem 0 .4rem}td{overflow-wrap:anywhere}"""


@dataclass(frozen=True)
class ReportPart:
    """One part of a report."""

    name: str
    facts: Mapping[str, Any] = field(default_factory=dict)  # name -> text, number, list or dictionary; None if unknown
    rows: Sequence[Mapping[str, Any]] = ()  # a table; all rows have the keys of the first
    note: str = ""  # what is missing or wrong


def page(title: str, parts: Sequence[ReportPart]) -> str:
    """The report as an HTML page."""
    return pages.page(title, [f"<h1>{escape(title)}</h1>", *map(_section, parts)], STYLE)


def show_value(value: Any) -> str:
    """A value as text."""
    if value is None:
        return "-"
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {show_value(one)}" for name, one in value.items()) or "-"
    if isinstance(value, list | tuple):
        return ", ".join(map(show_value, value)) or "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _lines(part: ReportPart) -> list[str]:
    width = max((len(name) for name in part.facts), default=0)
    facts = [f"  {name:<{width}}  {show_value(value)[:MAX_WIDTH]}" for name, value in part.facts.items()]
    return ["", part.name.upper(), *facts, *_text_table(part.rows), *([f"  ! {part.note}"] if part.note else [])]


def _text_table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    if not rows:
        return []
    names = list(rows[0])
    cells = [names, *([show_value(row[name]) for name in names] for row in rows[:MAX_ROWS])]
    widths = [max(len(line[column]) for line in cells) for column in range(len(names))]
    lines = ["  " + "  ".join(map(str.ljust, line, widths)).rstrip() for line in cells]
    more = len(rows) - MAX_ROWS
    return [*lines, f"  ... and {more:,} more (--json and --html show all)"] if more > 0 else lines


def _section(part: ReportPart) -> str:
    facts = pages.table([{"": name, " ": show_value(value)} for name, value in part.facts.items()], head=False)
    rows = pages.table([{name: show_value(value) for name, value in row.items()} for row in part.rows])
    note = f'<p class="note">{pages.markup(part.note)}</p>' if part.note else ""
    return f"<section><h2>{escape(part.name)}</h2>{facts}{rows}{note}</section>"


# --- the commands' shared options


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--served", type=Path, metavar="FOLDER", help="the served log (default: the edge's)")
    output = parser.add_mutually_exclusive_group()
    output.add_argument("--json", action="store_true", help="print JSON")
    output.add_argument("--html", type=Path, metavar="FILE", help="write a page")


def served_folder(arguments: argparse.Namespace) -> Path:
    """The folder of the served log."""
    return arguments.served or edge.load().home / "served"


def keys_of_users() -> list[UserKey]:
    """The keys of the served log's pseudonyms that are here, newest first."""
    return read_keys(edge.load())


def secret_of(line: Line, keys: Sequence[UserKey]) -> bytes | None:
    """The secret of a line's pseudonyms; None if its key is not here."""
    key = of_line(keys, line)
    return None if key is None else key.secret


def show(title: str, parts: Sequence[ReportPart], arguments: argparse.Namespace) -> None:
    """Print the report, or write the page and print where it is."""
    if arguments.json:
        report = {part.name: {**part.facts, "rows": list(part.rows), "note": part.note} for part in parts}
        print(json.dumps({"title": title, **report}, indent=1, ensure_ascii=False, default=str))
    elif arguments.html is None:
        print("\n".join([title, *(line for part in parts for line in _lines(part))]))
    else:
        arguments.html.parent.mkdir(parents=True, exist_ok=True)
        arguments.html.write_text(page(title, parts), encoding="utf-8")
        print(f"{title}; report: {arguments.html}")
