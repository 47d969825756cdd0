"""Pieces that reports share: number formats, tables as Markdown and HTML, HTML pages that work offline, Plotly figures."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import plotly.graph_objects as go

MISSING = "–"
GREEN, AMBER, RED, GREY = "#1a7f37", "#9a6700", "#cf222e", "#57606a"
STYLE = f"""body{{font:16px/1.5 system-ui,sans-serif;max-width:68rem;margin:1.5rem auto;padding:0 1rem;color:#1b2733}}
h1{{font-size:1.5rem;overflow-wrap:anywhere}}h2{{margin:1.8rem 0 .4rem;font-size:1.2rem}}.wide{{overflow-x:auto}}
table{{border-collapse:collapse;font-size:14px;font-variant-numeric:tabular-nums;margin:.4rem 0}}
td,th{{padding:.3rem .6rem;border-bottom:1px solid #d8dee4;text-align:left;vertical-align:top}}
.ok{{color:{GREEN}}}.open{{color:{AMBER}}}.bad{{color:{RED};font-weight:600}}.none,.small{{color:{GREY}}}.small{{font-size:14px}}
.note{{background:#fff8c5;border-left:.4rem solid {AMBER};padding:.5rem 1rem}}
code,pre{{background:#f4f6f8;padding:0 .2em}}pre{{padding:1rem;overflow:auto;font-size:13px}}svg{{width:100%}}"""
WIDE_STYLE = "body{max-width:1240px}td{white-space:nowrap}"  # for tables of many numbers


class Html(str):
    """Text that is markup already and is not escaped."""


def decimal_text(value: float | None, signed: bool = False) -> str:
    """Four decimals; a dash for None."""
    return MISSING if value is None else f"{value:+.4f}" if signed else f"{value:.4f}"


def interval_text(entry: Mapping[str, Any] | float | None, key: str = "mean", signed: bool = False) -> str:
    """`0.1234 [0.1010, 0.1450]`, without brackets if there is no interval; a dash if there is no value.

    Args:
        entry: a number, or a mapping with `key` (or "value") and the optional "low" and "high".
    """
    if not isinstance(entry, Mapping):
        return decimal_text(entry, signed)
    value, low = entry.get(key, entry.get("value")), entry.get("low")
    bounds = "" if low is None else f" [{decimal_text(low, signed)}, {decimal_text(entry['high'], signed)}]"
    return decimal_text(value, signed) + bounds


def percent_text(value: float | None) -> str:
    """Signed percent with one decimal; a dash for None."""
    return MISSING if value is None else f"{value:+.1%}"


def sentence(text: str) -> str:
    """Text with a capital first letter."""
    return text[:1].upper() + text[1:]


def markdown_table(rows: Sequence[Mapping[str, str]]) -> str:
    """Rows of column -> text as a Markdown table; all rows have the columns of the first."""
    head = list(rows[0])
    lines = [head, ["---"] * len(head), *([row[name] for name in head] for row in rows)]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def table(rows: Sequence[Mapping[str, str]], head: bool = True) -> str:
    """Rows of column -> cell as an HTML table; columns may differ from row to row. "" without rows."""
    if not rows:
        return ""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    titles = "<tr>" + "".join(f"<th>{escape(name)}" for name in columns) if head else ""
    lines = "".join("<tr>" + "".join(f"<td>{markup(row.get(name, ''))}" for name in columns) for row in rows)
    return f'<div class="wide"><table>{titles}{lines}</table></div>'


def markup(text: str) -> str:
    """Text with markup escaped and `code` between backticks set as code."""
    return text if isinstance(text, Html) else re.sub("`([^`]+)`", r"<code>\1</code>", escape(text))


def page(title: str, body: Iterable[str], style: str = "", plotly: bool = False) -> str:
    """A whole HTML page that fetches nothing.

    Args:
        body: markup, part by part.
        style: CSS in addition to STYLE.
        plotly: include Plotly's script, for pages with figures.
    """
    script = ""
    if plotly:
        from plotly.offline import get_plotlyjs  # slow to import, and most pages have no figure

        script = f"<script>{get_plotlyjs()}</script>"
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>{escape(title)}</title><style>{STYLE}{style}</style>{script}<body>{''.join(body)}</html>\n"
    )


def plotly_figure(figure: go.Figure) -> str:
    """A Plotly figure as part of a page."""
    return figure.to_html(full_html=False, include_plotlyjs=False, config={"displaylogo": False})


def error_bars(entries: Sequence[Mapping[str, Any]], key: str = "mean") -> dict[str, Any]:
    """Plotly's asymmetric error bars from the value at `key` to "low" and "high"; 0 where there is no interval."""
    bounded = [entry if entry.get("low") is not None else None for entry in entries]
    return {
        "type": "data",
        "symmetric": False,
        "array": [entry["high"] - entry[key] if entry else 0 for entry in bounded],
        "arrayminus": [entry[key] - entry["low"] if entry else 0 for entry in bounded],
    }
