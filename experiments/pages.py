"""Pieces that reports share: number formats, Markdown and HTML tables, self-contained HTML pages, Plotly figures."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import plotly.graph_objects as go

MISSING = "–"
STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:1240px;margin:2em auto;padding:0 1em;color:#222}"
    "table{border-collapse:collapse;font-variant-numeric:tabular-nums}"
    "td,th{padding:.25em .7em;border-bottom:1px solid #ddd;text-align:left}td{white-space:nowrap}.wide{overflow-x:auto}"
)


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


def markdown_table(rows: Sequence[Mapping[str, str]]) -> str:
    """A table of rows that all have the columns of the first."""
    head = list(rows[0])
    lines = [head, ["---"] * len(head), *([row[name] for name in head] for row in rows)]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def html_table(rows: Sequence[Mapping[str, str]]) -> str:
    """The same as HTML, with texts escaped."""
    head = "".join(f"<th>{escape(name)}</th>" for name in rows[0])
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row.values()) + "</tr>" for row in rows)
    return f'<div class="wide"><table><tr>{head}</tr>{body}</table></div>'


def html_page(title: str, body: Iterable[str], style: str = STYLE, plotly: bool = False) -> str:
    """A page that loads nothing from elsewhere; with `plotly` it holds Plotly's script, so that figures work offline."""
    script = ""
    if plotly:
        from plotly.offline import get_plotlyjs  # slow to import, and most pages draw nothing

        script = f"<script>{get_plotlyjs()}</script>"
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f"<title>{escape(title)}</title><style>{style}</style>{script}</head><body>{''.join(body)}</body></html>\n"
    )


def html_figure(figure: go.Figure) -> str:
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
