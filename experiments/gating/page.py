"""The gate's report as a page that a person reads: no script, nothing fetched."""

from __future__ import annotations

import json
from html import escape
from typing import Any

from experiments.gating.checks import checks, lines
from experiments.gating.picture import picture
from experiments.gating.tables import tables

STYLE = """body{font:16px/1.5 system-ui,sans-serif;max-width:58rem;margin:1.5rem auto;padding:0 1rem;color:#1b2733}
.verdict{color:#fff;padding:1rem 1.3rem;border-radius:.5rem}.verdict h1{margin:0;font-size:1.7rem;line-height:1.25}
.verdict p{margin:.5rem 0 0}.loud{background:#fff1e5;border-left:.4rem solid #cf222e;padding:.6rem 1rem;font-weight:600}
.note{background:#fff8c5;border-left:.4rem solid #9a6700;padding:.6rem 1rem}h2{margin:1.8rem 0 .4rem;font-size:1.2rem}
.next{border:1px solid #d0d7de;border-radius:.5rem;padding:.6rem 1rem;margin:1rem 0}
table{border-collapse:collapse;width:100%;font-size:14px;font-variant-numeric:tabular-nums}
td,th{padding:.3rem .5rem;border-bottom:1px solid #d8dee4;text-align:right;vertical-align:top}
td:first-child,th:first-child,.text td,.text th{text-align:left}.ok,.open,.bad,.none{white-space:nowrap}.small{color:#57606a;font-size:14px;margin:.2rem 0}
.ok{color:#1a7f37}.open{color:#9a6700}.bad{color:#cf222e;font-weight:600}.none{color:#57606a}
pre{background:#f4f6f8;padding:1rem;overflow:auto;font-size:13px}code{background:#f4f6f8;padding:0 .2em}svg{width:100%}"""
COLOURS = {
    "PROMOTE": "#1a7f37",
    "HOLD": "#9a6700",
    "REJECT": "#cf222e",
    "INSUFFICIENT_DATA": "#57606a",
    "OVERRIDE": "#cf222e",
}
SAID = {
    "PROMOTE": "{label} becomes the champion, in place of {champion}",
    "HOLD": "{label} waits, {champion} stays champion",
    "REJECT": "{label} is turned down, {champion} stays champion",
    "OVERRIDE": "{label} is champion without the gate's word, in place of {champion}",
    "INSUFFICIENT_DATA": "too little is known of {label}, {champion} stays champion",
}
TERMS = """NDCG@10: how high what was taken stands among the first 10 of the whole catalogue. next: the live page, asked
before each event; window: one list for the coming days. Best cheap baseline: the best model that only counts, chosen on
validation. An interval resamples users; a lower bound above the bar is a test at alpha, shared by all looks at this window."""
BADGES = {"ok": "✓ holds", "bad": "✗ fails", "open": "? not shown", "none": "– not asked"}


def page(report: dict[str, Any]) -> str:
    """HTML of one gate report."""
    title = f"Gate: {report['verdict']}: {report['dataset']}"
    body = [_banner(report), *_warnings(report), _next(report), _evidence(report), *tables(report), _policy(report)]
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(title)}</title>'
        f"<style>{STYLE}</style>{''.join(body)}</html>\n"
    )


def champion_of(report: dict[str, Any]) -> str:
    """The champion that the candidate was set against, in words."""
    version, label = report.get("against_version"), report.get("against_label")
    if version is None:
        return "nobody"
    return f"{label} (version {version})" if label else f"version {version}"


def _banner(report: dict[str, Any]) -> str:
    said = SAID[report["verdict"]].format(label=report["label"], champion=champion_of(report))
    version = f", version {report['version']}" if "version" in report else ""
    return (
        f'<div class="verdict" style="background:{COLOURS[report["verdict"]]}">'
        f"<h1>{report['verdict'].replace('_', ' ')}: {escape(said)}</h1>"
        f"<p>{escape(report['reason'][:1].upper() + report['reason'][1:])}.</p></div>"
        f'<p class="small">Candidate {escape(report["label"])}{escape(str(version))}; data set '
        f"{escape(report['dataset'])}; decided {escape(report['date'])}.</p>"
    )


def _warnings(report: dict[str, Any]) -> list[str]:
    loud = [f'<p class="loud">OVERRIDE: {escape(text)}</p>' for text in report.get("overrides", [])]
    unknown, instead = report.get("code", {}).get("unknown"), report.get("instead")
    notes = [*([f"Code: {unknown}"] if unknown else []), *([f"{instead[:1].upper()}{instead[1:]}."] if instead else [])]
    return loud + [f'<p class="note">{escape(note)}</p>' for note in notes]


def _next(report: dict[str, Any]) -> str:
    advice = report.get("advice", "")
    return f'<p class="next"><strong>What to do next:</strong> {_with_code(advice[:1].upper() + advice[1:])}.</p>'


def _with_code(text: str) -> str:
    """Escaped; what stands between backticks as code."""
    parts = escape(text).split("`")
    return "".join(f"<code>{part}</code>" if at % 2 else part for at, part in enumerate(parts))


def _evidence(report: dict[str, Any]) -> str:
    rows = checks(report)
    if not rows:
        return ""
    body = "".join(
        f'<tr><td>{escape(row.name)}<td>{escape(row.found)}<td>{escape(row.bar)}<td class="{row.state}">{BADGES[row.state]}'
        for row in rows
    )
    head = "<tr><th>what is asked<th>what was found<th>the bar<th></tr>"
    table = f'<h2>On what evidence</h2><table class="text">{head}{body}</table>'
    drawn = picture(lines(report))
    about = (
        '<p class="small">Relative differences in NDCG@10, candidate less opponent, on the same cases; bars are intervals '
        "from a bootstrap by user; the dashed mark is the margin. The candidate must be wholly right of zero on the "
        f"primary target ({escape(report['primary'])}), and right of the margin on the other.</p>"
    )
    table += f'<p class="small">{TERMS}</p>'
    return table + (f"<h2>The comparisons</h2>{about}{drawn}" if drawn else "")


def _policy(report: dict[str, Any]) -> str:
    told = json.dumps(report["policy"], indent=1)
    return (
        f"<h2>Policy</h2><p class='small'>Version {report['policy'].get('version', '-')}, hash "
        f"<code>{escape(report.get('policy_hash', '-'))}</code>; the section <code>gate</code> of params.yaml.</p>"
        f"<details><summary>All of it</summary><pre>{escape(told)}</pre></details>"
    )
