"""The gate's report as a page that a person reads: no script, nothing fetched."""

from __future__ import annotations

import json
from collections.abc import Mapping
from html import escape
from typing import Any

from experiments.gating.report_checks import WORDS, check_lines, checks, opponents, picture, segment_state, signed

STATES = {"ok": "keeps", "bad": "loses", "open": "neither shown", "none": "few users: not tested"}


def tables(report: Mapping[str, Any]) -> list[str]:
    """HTML of each table that has something to say."""
    found = report["evidence"]
    return [_targets(found), _segments(report), _refit(found), _provenance(report)]


def _targets(found: Mapping[str, Any]) -> str:
    rows = [
        f"<tr><td>{escape(target)}<td>{escape(WORDS[role])}<td>{one['users']:,}<td>{one['cases']:,}"
        f"<td>{one['candidate']:.4f}<td>{one['against']:.4f}<td>{escape(signed(one))}"
        for role, by_target in opponents(found)
        for target, one in (by_target or {}).items()
    ]
    head = "<tr><th>target<th>against<th>users<th>cases<th>candidate<th>opponent<th>relative difference, interval</tr>"
    return f"<h2>NDCG@10 by target</h2><table>{head}{''.join(rows)}</table>" if rows else ""


def _segments(report: Mapping[str, Any]) -> str:
    rows = []
    for row in report["evidence"].get("segments", []):
        state = segment_state(row, report["policy"], report.get("looks", 1))
        p = f"{row['p_holm']:.2g}" if row["tested"] else "–"
        rows.append(
            f"<tr><td>{escape(row['segment'])}<td>{row['target']}<td>{row['users']:,}<td>{row['cases']:,}"
            f"<td>{row['candidate']:.4f}<td>{row['against']:.4f}<td>{escape(signed(row))}<td>{p}"
            f'<td class="{state}">{STATES[state]}'
        )
    if not rows:
        return ""
    head = (
        "<tr><th>segment<th>target<th>users<th>cases<th>candidate<th>champion<th>relative difference, interval"
        "<th>p (Holm)<th></tr>"
    )
    about = (
        '<p class="small">A user is in a segment as of the moment of a case; segments overlap. p: that no more than '
        f"{report['policy']['segment_margin']:.0%} is lost, corrected for all tests together; a segment loses where it is at "
        f"most alpha / looks = {report['policy']['alpha'] / report.get('looks', 1):.3g}. Cold users (of whom nothing is known) "
        "are always tested. Keeps: the interval lies above the margin.</p>"
    )
    return f"<h2>By segment, against the champion</h2>{about}<table>{head}{''.join(rows)}</table>"


def _refit(found: Mapping[str, Any]) -> str:
    again = found.get("refit")
    if again is None:
        return ""
    title = "<h2>Is it the idea, or only the fresher data?</h2>"
    if again["reason"] is not None:
        return f"{title}<p class=\"small\">Champion's recipe refitted on the candidate's data: {escape(again['reason'])}.</p>"
    rows = "".join(
        f"<tr><td>{target}<td>{escape(signed(again['data'][target]))}<td>{escape(signed(again['idea'][target]))}"
        for target in again["data"]
    )
    head = "<tr><th>target<th>fresher data alone<th>the idea alone</tr>"
    about = (
        f"<p class=\"small\">The champion's recipe, fitted on the candidate's data in {again['seconds']} s: what it gains on "
        "the champion is the data's, what the candidate gains on it is the idea's. It decides nothing.</p>"
    )
    return f"{title}{about}<table>{head}{rows}</table>"


def _provenance(report: Mapping[str, Any]) -> str:
    code = report.get("code", {})
    state = code.get("changed") or code.get("unknown") or "as committed"
    seen = [f"{report[key][:16].replace('T', ' ')}" for key in ("window_start", "window_end") if key in report]
    window = f"{' to '.join(seen)} UTC" if seen else "nobody looked"
    looks = report.get("looks")
    share = f"look {looks}: alpha = {report['policy']['alpha']} / {looks}" if looks else "none spent"
    told = {
        "window": window,
        "looks at this window": share,
        "data set": f"{report['dataset']}, hash {report.get('dataset_hash', '-')}, newest event {report.get('newest_event', '-')[:10]}",
        "split": report.get("split_id", "-"),
        "code that judged": f"{code.get('commit', '-')} ({state})",
    }
    for role, one in report.get("artifacts", {}).items():
        told[role] = (
            f"{one['label']}, fitted until {one['fit_until']} on data {one['dataset_hash']}, commit {one['commit']}"
        )
    rows = "".join(f"<tr><td>{escape(name)}<td>{escape(str(value))}" for name, value in told.items())
    return f'<h2>Provenance</h2><table class="text">{rows}</table>'


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
TERMS = """NDCG@10: how high what was taken stands among the first 10 of the whole catalogue. next_item: the live page, asked
before each event; horizon: one list for the coming days. Best cheap baseline: the best model that only counts, chosen on
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
    drawn = picture(check_lines(report))
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
