"""The page's tables: targets, segments, what a refit told, and where everything came from."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

from experiments.gating.checks import WORDS, opponents, segment_state, signed

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
