"""The gate's report as a page that a person reads: no script, nothing fetched."""

from __future__ import annotations

import json
from html import escape

STYLE = """body{font:16px/1.5 system-ui,sans-serif;max-width:52rem;margin:2rem auto;padding:0 1rem;color:#1b2733}
h1 span{padding:.1em .5em;border-radius:.3em;color:#fff}table{border-collapse:collapse;width:100%}
td,th{padding:.4rem .6rem;border-bottom:1px solid #d8dee4;text-align:right}td:first-child,th:first-child{text-align:left}
pre{background:#f4f6f8;padding:1rem;overflow:auto;font-size:13px}"""
COLOURS = {"PROMOTE": "#1a7f37", "HOLD": "#9a6700", "REJECT": "#cf222e", "INSUFFICIENT_DATA": "#57606a"}


def page(report: dict) -> str:
    """HTML of one gate report."""
    outcome = report["verdict"]
    badge = f'<span style="background:{COLOURS[outcome]}">{outcome}</span>'
    against = report.get("against_version")
    versus = f"against champion version {escape(str(against))}" if against else "no champion before it"
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>Gate: {escape(report["dataset"])}</title>'
        f"<style>{STYLE}</style><h1>{badge} {escape(report['label'])}</h1>"
        f"<p><strong>{escape(report['reason'])}</strong></p>"
        f"<p>Data set {escape(report['dataset'])}, {versus}, decided {escape(report['date'])}, "
        f"look {report.get('looks', '-')} at this window.</p>{_table(report)}"
        f"<h2>Policy</h2><pre>{escape(json.dumps(report['policy'], indent=1))}</pre></html>\n"
    )


def _table(report: dict) -> str:
    targets = (report.get("evidence") or {}).get("targets")
    if not targets:
        return ""
    rows = []
    for target, found in targets.items():
        primary = " (primary)" if target == report["primary"] else ""
        rows.append(_row(f"{target}{primary}", found["users"], found["cases"], found))
        rows += [_row(f"&emsp;{name}", "", part["cases"], part) for name, part in found["slices"].items()]
    head = "<tr><th>NDCG@10<th>users<th>cases<th>candidate<th>champion<th>relative difference<th>interval</tr>"
    return f"<table>{head}{''.join(rows)}</table>"


def _row(name: str, users, cases, found: dict) -> str:
    difference = f"{found['relative']:+.1%}" if "relative" in found else ""
    interval = f"{found['relative_low']:+.1%} to {found['relative_high']:+.1%}" if "relative" in found else ""
    return (
        f"<tr><td>{name}<td>{users}<td>{cases}<td>{found['candidate']:.4f}<td>{found['champion']:.4f}"
        f"<td>{difference}<td>{interval}</tr>"
    )
