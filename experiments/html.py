"""HTML pages that commands write: they work offline, run no script and fetch nothing."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape

GREEN, AMBER, RED, GREY = "#1a7f37", "#9a6700", "#cf222e", "#57606a"
STYLE = f"""body{{font:16px/1.5 system-ui,sans-serif;max-width:68rem;margin:1.5rem auto;padding:0 1rem;color:#1b2733}}
h1{{font-size:1.5rem;overflow-wrap:anywhere}}h2{{margin:1.8rem 0 .4rem;font-size:1.2rem}}.wide{{overflow-x:auto}}
table{{border-collapse:collapse;font-size:14px;font-variant-numeric:tabular-nums;margin:.4rem 0}}
td,th{{padding:.3rem .6rem;border-bottom:1px solid #d8dee4;text-align:left;vertical-align:top}}
.ok{{color:{GREEN}}}.open{{color:{AMBER}}}.bad{{color:{RED};font-weight:600}}.none,.small{{color:{GREY}}}.small{{font-size:14px}}
.note{{background:#fff8c5;border-left:.4rem solid {AMBER};padding:.5rem 1rem}}
code,pre{{background:#f4f6f8;padding:0 .2em}}pre{{padding:1rem;overflow:auto;font-size:13px}}svg{{width:100%}}"""


class Html(str):
    """Text that is markup already and is not escaped."""


def page(title: str, body: Iterable[str], style: str = "") -> str:
    """A whole page.

    Args:
        body: markup, part by part.
        style: CSS in addition to STYLE.
    """
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>{escape(title)}</title><style>{STYLE}{style}</style>{''.join(body)}</html>\n"
    )


def table(rows: Sequence[Mapping[str, str]], head: bool = True) -> str:
    """Rows of column -> cell as a table; columns may differ from row to row. "" without rows."""
    if not rows:
        return ""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    titles = "<tr>" + "".join(f"<th>{escape(name)}" for name in columns) if head else ""
    lines = "".join("<tr>" + "".join(f"<td>{markup(row.get(name, ''))}" for name in columns) for row in rows)
    return f'<div class="wide"><table>{titles}{lines}</table></div>'


def markup(text: str) -> str:
    """Text with markup escaped and `code` between backticks set as code."""
    return text if isinstance(text, Html) else re.sub("`([^`]+)`", r"<code>\1</code>", escape(text))


def sentence(text: str) -> str:
    """Text with a capital first letter."""
    return text[:1].upper() + text[1:]
