"""The same as a page: no script, nothing fetched, one box per link."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from experiments.lineage.report import Part, shown

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
