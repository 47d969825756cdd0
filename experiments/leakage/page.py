"""The audit's report as a page that a person reads: no script, nothing fetched."""

from __future__ import annotations

import re
from html import escape

STYLE = """body{font:16px/1.5 system-ui,sans-serif;max-width:72rem;margin:2rem auto;padding:0 1rem;color:#1b2733}
h1 span{padding:.1em .5em;border-radius:.3em;color:#fff}h2{margin-top:2.2rem}
table{border-collapse:collapse;font-variant-numeric:tabular-nums;font-size:14px}.wide{overflow-x:auto}
td,th{padding:.3rem .7rem;border-bottom:1px solid #d8dee4;text-align:left;vertical-align:top}
td.number{text-align:right}section{border-left:4px solid #9a6700;padding:.1rem 1rem;margin:1rem 0;background:#fdf8ee}
section.leak{border-color:#cf222e;background:#fdecea}h3{margin:.5rem 0}section td,section th{white-space:nowrap}.ok{color:#1a7f37}.no{color:#cf222e;font-weight:600}
small{color:#57606a}"""
RED, GREEN = "#cf222e", "#1a7f37"


def page(report: dict) -> str:
    """HTML of one report: the answer, the leaks with their rows, every check that ran, what else to know."""
    body = [_head(report), *_findings(report, True), _checks(report), *_findings(report, False), *_measured(report)]
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>Leakage audit: {escape(report["dataset"])}</title>'
        f"<style>{STYLE}</style>{''.join(body)}</html>\n"
    )


def _head(report: dict) -> str:
    failed = [check for check in report["checks"] if check["failed"]]
    badge = (
        f'<span style="background:{GREEN if report["clean"] else RED}">{"CLEAN" if report["clean"] else "LEAKS"}</span>'
    )
    answer = (
        f"{len(failed)} of {len(report['checks'])} checks found what a model could not have known: "
        + ", ".join(f"{check['check']} ({check['cut']})" for check in failed)
        + "."
        if failed
        else f"All {len(report['checks'])} checks passed: nothing that a model saw lies in its future."
    )
    origin = (
        f"As of {report['date']}, commit {report['commit']}, by python -m experiments.audit in {report['seconds']} s.",
        f"Split {report['split_id']} of data {report['dataset_hash']}: valid from {report['valid_start']}, "
        f"test from {report['test_start']}.",
        f"Audited: {report['audited']} (hash of products, code and settings).",
    )
    lines = "<br>".join(map(escape, origin))
    title = f"Leakage audit of {escape(report['dataset'])}"
    return f"<h1>{badge} {title}</h1><p><strong>{escape(answer)}</strong></p><p><small>{lines}</small></p>"


def _findings(report: dict, fails: bool) -> list[str]:
    """The findings that fail the audit, or those that only inform."""
    pairs = [(check, found) for check in report["checks"] for found in check["findings"] if found["fails"] == fails]
    title = "<h2>Offending rows</h2>" if fails else "<h2>Worth knowing</h2>"
    return [title, *(_finding(*pair) for pair in pairs)] if pairs else []


def _finding(check: dict, found: dict) -> str:
    kind = ' class="leak"' if found["fails"] else ""
    count = f"{found['rows']:,} rows" + (", the first of them:" if found["examples"] else ".") if found["rows"] else ""
    return (
        f"<section{kind}><h3>{escape(found['what'][:1].upper() + found['what'][1:])}</h3><small>{escape(check['check'])}, {_cut(check)}</small>"
        f"<p>{_prose(found['meaning'])}<br><b>What to do:</b> {_prose(found['remedy'])}</p>"
        f"<p>{count}</p>{_table(found['examples'])}</section>"
    )


def _prose(text: str) -> str:
    """Text with its `code` set as code."""
    return re.sub("`([^`]+)`", r"<code>\1</code>", escape(text))


def _measured(report: dict) -> list[str]:
    """What checks measured besides: the target probe's shares."""
    return [
        f"<h2>{escape(check['check'].capitalize())}, {_cut(check)}</h2><p>Share of decided duels in which the feature scored "
        f"the item taken above another case's, and its 95% interval. On the true times more than 0.5 is use; with the times "
        f"dealt anew it must fall to 0.5.</p>{_table(check['measured'])}"
        for check in report["checks"]
        if check["measured"]
    ]  # fmt: skip


def _checks(report: dict) -> str:
    lines = "".join(
        f"<tr><td>{escape(check['check'])}<td>{escape(check['cut'])}<td>{escape(check['promise'])}"
        f'<td class="number">{check["rows"]:,}<td>{escape(check["unit"])}<td>{_outcome(check)}'
        f'<td class="number">{check["seconds"]:.2f}</tr>'
        for check in report["checks"]
    )
    head = "<tr><th>check<th>cut<th>what it holds the data to<th colspan=2>looked at<th>outcome<th>s</tr>"
    return f'<h2>The checks</h2><div class="wide"><table>{head}{lines}</table></div>'


def _outcome(check: dict) -> str:
    if check["failed"]:
        return '<span class="no">leak</span>'
    return '<span class="ok">passed</span>' if check["rows"] else "<small>nothing to look at</small>"


def _cut(check: dict) -> str:
    return "both cuts" if check["cut"] == "both" else f"{escape(check['cut'])} cut"


def _table(rows: list[dict[str, str]]) -> str:
    """Rows of column -> text; columns may differ from row to row."""
    if not rows:
        return ""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    head = "".join(f"<th>{escape(name)}" for name in columns)
    lines = "".join("<tr>" + "".join(f"<td>{escape(row.get(name, ''))}" for name in columns) + "</tr>" for row in rows)
    return f'<div class="wide"><table><tr>{head}</tr>{lines}</table></div>'
