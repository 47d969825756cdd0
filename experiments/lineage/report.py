"""What trace, impact and replay found, in parts: as text for a terminal, and as JSON."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

from serving.edge import settings as edge
from serving.edge.pseudonym import secret_of

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


STYLE = """body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#1b2733}
h1{font-size:1.4rem;overflow-wrap:anywhere}section{border:1px solid #d8dee4;border-radius:.5rem;padding:.2rem 1rem 1rem;margin:0}
section+section{margin-top:1.6rem;position:relative}
section+section::before{content:"";position:absolute;left:2rem;top:-1.6rem;height:1.6rem;border-left:2px solid #8c959f}
h2{font-size:1rem;margin:.7rem 0 .4rem}table{border-collapse:collapse;width:100%;font-size:14px}
td,th{padding:.2rem .6rem .2rem 0;text-align:left;vertical-align:top;overflow-wrap:anywhere}
.facts th{font-weight:400;color:#57606a;width:11rem;white-space:nowrap}.rows th{border-bottom:1px solid #d8dee4}
.rows{margin-top:.6rem}.note{background:#fff8c5;border-radius:.3rem;padding:.4rem .7rem;margin:.7rem 0 0}"""


def page(title: str, parts: Sequence[Part]) -> str:
    """HTML of a report."""
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width"><title>{escape(title)}</title>'
        f"<style>{STYLE}</style><h1>{escape(title)}</h1>{''.join(map(_section, parts))}</html>\n"
    )


def _section(part: Part) -> str:
    facts = "".join(f"<tr><th>{escape(name)}<td>{escape(shown(value))}" for name, value in part.facts.items())
    note = f'<p class="note">{escape(part.note)}</p>' if part.note else ""
    table = f'<table class="facts">{facts}</table>' if facts else ""
    return f"<section><h2>{escape(part.name)}</h2>{table}{_rows(part)}{note}</section>"


def _rows(part: Part) -> str:
    if not part.rows:
        return ""
    names = list(part.rows[0])
    head = "".join(f"<th>{escape(name)}" for name in names)
    body = "".join("<tr>" + "".join(f"<td>{escape(shown(row[name]))}" for name in names) for row in part.rows)
    return f'<table class="rows"><tr>{head}{body}</table>'


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--params", default="params.yaml", help="settings (default: %(default)s)")
    parser.add_argument("--served", type=Path, metavar="FOLDER", help="the served log (default: the edge's own)")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--json", action="store_true", help="print JSON")
    how.add_argument("--html", type=Path, metavar="FILE", help="write a page")


def served(given: argparse.Namespace) -> Path:
    """The folder of the served log."""
    return given.served or edge.load().home / "served"


def secret(folder: Path) -> bytes | None:
    """What users are hidden under in a served log: as the environment states it, or as it lies beside the folder;
    None where neither has it."""
    stated, path = edge.load().user_secret.get_secret_value(), folder.parent / "user.key"
    if stated:
        return secret_of(stated, edge.variable("user_secret"))
    return secret_of(path.read_text().strip(), path) if path.is_file() else None


def show(title: str, parts: Sequence[Part], given: argparse.Namespace) -> None:
    """Print it, or write the page and say where."""
    if given.html is not None:
        given.html.parent.mkdir(parents=True, exist_ok=True)
        given.html.write_text(page(title, parts))
        notes = [f"; {part.name}: {part.note}" for part in parts if part.note]
        print(f"{title}: {len(parts)} parts{''.join(notes)} -> {given.html}")
        return
    print(as_json(title, parts) if given.json else as_text(title, parts))
