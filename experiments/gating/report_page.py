"""Show a gate report: as an HTML page, as Markdown for a pull request, and as lines of a terminal."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

from data import pages
from data.pages import AMBER, GREEN, GREY, RED, Html, decimal_text, markdown_table, markup, sentence, table
from experiments.evaluation.cases import TARGETS
from experiments.gating.verdict import CHAMPION, OPPONENTS, signed
from experiments.lineage import skew_report

OK, FAILED, OPEN, NOT_DECIDED = "ok", "bad", "open", "none"  # states of a check, and CSS classes
BADGES = {OK: "✓ passed", FAILED: "✗ failed", OPEN: "? not shown", NOT_DECIDED: "– not decided"}
VERDICTS = {  # verdict -> color, sign in Markdown, headline
    "PROMOTE": (GREEN, "🟢", "{label} becomes the champion in place of {champion}"),
    "HOLD": (AMBER, "🟡", "{label} must wait; {champion} stays the champion"),
    "REJECT": (RED, "🔴", "{label} is rejected; {champion} stays the champion"),
    "INSUFFICIENT_DATA": (GREY, "⚪", "too little data to judge {label}; {champion} stays the champion"),
    "OVERRIDE": (RED, "🔴", "{label} was made the champion by an override, in place of {champion}"),
}
STYLE = """.verdict{color:#fff;padding:1rem 1.3rem;border-radius:.5rem}.verdict h1{margin:0}.verdict p{margin:.5rem 0 0}
.loud{background:#fff1e5;border-left:.4rem solid #cf222e;padding:.6rem 1rem;font-weight:600}
.next{border:1px solid #d0d7de;border-radius:.5rem;padding:.6rem 1rem}"""
TERMS = """NDCG@10 says how high the true items rank among the first 10 of the whole catalog. next_item: a ranking before
each event, as on a live page. horizon: one list for the coming days. The best baseline is chosen on validation."""
COMPARISON = """Relative differences in NDCG@10, candidate minus opponent, on the same cases, with bootstrap intervals by
user. The whole interval must lie above zero on the primary target and above minus the margin on the other one. Segments
are those of a user at the time of each case, and overlap. A segment loses if p, corrected for all segment tests, is at
most alpha / looks; cold users are always tested, other segments if they have enough users."""


def summary(report: Mapping[str, Any], page_path: Path) -> str:
    """Lines for the terminal: overrides, notes, the verdict and where the page is."""
    lines = [f"OVERRIDE: {text}" for text in report.get("overrides", [])]
    if report.get("champion_note"):
        lines.append(report["champion_note"])
    name = f"{report['label']} (version {report['version']})"
    if report.get("against_version") is not None:
        name += f" {'over' if report['verdict'] == 'PROMOTE' else 'against'} {champion_name(report)}"
    before = " (decided before)" if report.get("decided_before") else ""
    return "\n".join([*lines, f"{report['verdict']}{before} {name}: {report['reason']}; report: {page_path}"])


def markdown(report: Mapping[str, Any]) -> str:
    """A comment for a pull request: verdict, reason, next step, and each check."""
    lines = [f"## {VERDICTS[report['verdict']][1]} {headline(report)}", ""]
    lines += [f"> **OVERRIDE**: {text}" for text in report.get("overrides", [])]
    lines += [f"> {report['champion_note']}"] if report.get("champion_note") else []
    lines += [f"{report['reason']}.", ""]
    if advice := report.get("advice"):
        lines += [f"**Next:** {advice}.", ""]
    if rows := checks(report):
        lines += [markdown_table([{**_cells(row), "": BADGES[row.state]} for row in rows]), ""]
    commit = report["code"]["commit"][:12] if "code" in report else "-"  # an emergency override has no code
    return "\n".join([*lines, f"Dataset `{report['dataset']}`, code `{commit}`, {report['date']}."])


def page(report: Mapping[str, Any]) -> str:
    """The report as an HTML page."""
    color = VERDICTS[report["verdict"]][0]
    version = f", version {report['version']}" if "version" in report else ""
    unknown, note = report.get("code", {}).get("unknown"), report.get("champion_note")
    notes = ([f"Code: {unknown}."] if unknown else []) + ([f"{sentence(note)}."] if note else [])
    body = [
        f'<div class="verdict" style="background:{color}"><h1>{escape(headline(report))}</h1>',
        f"<p>{escape(report['reason'])}.</p></div>",
        f'<p class="small">Candidate {escape(report["label"] + version)}; dataset {escape(report["dataset"])}; decided '
        f"{escape(report['date'])}.</p>",
        *(f'<p class="loud">OVERRIDE: {escape(text)}</p>' for text in report.get("overrides", [])),
        *(f'<p class="note">{escape(text)}</p>' for text in notes),
        f'<p class="next"><strong>What to do next:</strong> {markup(sentence(report.get("advice", "")))}.</p>',
        *_section("Evidence", TERMS, [{**_cells(row), "": _badge(row.state)} for row in checks(report)]),
        *_section("NDCG@10 by target and segment", COMPARISON, _comparison_rows(report)),
        *_same_data_refit(report),
        *(_provenance(report) if "code" in report else []),
    ]
    return pages.page(f"Gate: {report['verdict']}: {report['dataset']}", body, STYLE)


def headline(report: Mapping[str, Any]) -> str:
    text = VERDICTS[report["verdict"]][2].format(label=report["label"], champion=champion_name(report))
    return f"{report['verdict'].replace('_', ' ')}: {text}"


def champion_name(report: Mapping[str, Any]) -> str:
    """The champion that the candidate was compared with."""
    version, label = report.get("against_version"), report.get("against_label")
    if version is None:
        return "nobody"
    return f"{label} (version {version})" if label else f"version {version}"


# --- the checks, one row each


class Check(NamedTuple):
    """One row: what was checked, what was found, what is required, and the state."""

    name: str
    found: str
    required: str
    state: str


def checks(report: Mapping[str, Any]) -> list[Check]:
    """All checks of a report; none if it ended before any."""
    found, policy = report["evidence"], report["policy"]
    if not found:
        return []
    rows = [*_comparison_checks(report), *_segment_check(report)]
    if "golden_answers" in found:
        text = f"all {found['golden_answers']} golden answers reproduced"
        rows.append(Check("Champion answers as at export", text, "all", OK))
    if "leakage_checks" in found:
        text = f"clean: {found['leakage_checks']} checks (audit.html)"
        if undecided := found.get("leakage_undecided"):  # absent in a report of an earlier version
            text += f"; not decided: {', '.join(undecided)}"
        rows.append(Check("No leak from the future", text, "no failed check", OK))
    if "skew" in report:
        rows.append(_skew_check(report["skew"], policy["min_match_rate"]))
    if "agreement" in found:
        row = found["agreement"]
        text = f"mean overlap@10 {row['overlap']:.3f}, over {row['requests']:,} recent requests"
        state = OK if row["overlap"] >= row["bar"] else FAILED
        rows.append(Check("Lists agree with the parent's", text, f"at least {row['bar']:g}", state))
    for name, kind in (("guard_rails", "Lists"), ("budgets", "Cost")):
        for row in found.get(name, []):
            unit = f" {row['unit']}" if "unit" in row else ""
            text = f"{_number(row['candidate'])}{unit} (champion {_number(row['champion'])}{unit})"
            required = f"{row.get('kind', 'at most')} {_number(row['limit'])}{unit}"
            measured = row["candidate"] is not None and row["limit"] is not None
            state = NOT_DECIDED if not measured else OK if row["within"] else FAILED
            rows.append(Check(f"{kind}: {row['name'].replace('_', ' ')}", text, required, state))
    if "age_days" in found:
        rows.append(_age_check(found["age_days"], policy["max_age_days"]))
    return rows


def _comparison_checks(report: Mapping[str, Any]) -> list[Check]:
    comparisons, min_users = report["evidence"].get("comparisons"), report["policy"]["min_users"]
    if not comparisons:
        return []
    users = {target: comparisons[CHAMPION].get(target, {}).get("users", 0) for target in TARGETS}
    text = ", ".join(f"{target} {count:,}" for target, count in users.items())
    state = OK if min(users.values()) >= min_users else NOT_DECIDED
    rows = [Check("Enough users", text, f"at least {min_users:,} each", state)]
    for opponent, by_target in _opponents(report):
        name = OPPONENTS[opponent]
        if by_target is None:
            rows.append(Check(f"Better than the {name}", f"the champion is the {name}", "see above", OK))
            continue
        for target, row in sorted(by_target.items(), key=lambda item: item[0] != report["primary"]):
            bar = _bar(target, report)
            better, required = ("Not worse", f"interval above {bar:.0%}") if bar else ("Better", "interval above 0")
            check = f"{better} than the {name} on {target}"
            rows.append(Check(check, signed(row), required, comparison_state(target, row, report)))
    return rows


def _segment_check(report: Mapping[str, Any]) -> list[Check]:
    tested = [row for row in report["evidence"].get("segments", []) if row["tested"]]
    if not tested:
        return []
    lost = [row for row in tested if segment_state(row, report) == FAILED]
    text = ", ".join(f"{row['segment']} on {row['target']} {signed(row)}" for row in lost)
    required = f"no loss of more than {report['policy']['segment_margin']:.0%} shown"
    return [Check("No segment loses", text or f"none of {len(tested)} tests (Holm)", required, FAILED if lost else OK)]


def _skew_check(skew: Mapping[str, Any] | None, min_match_rate: float) -> Check:
    groups = {name: row for name, row in (skew or {}).get("groups", {}).items() if row["compared"]}
    found, state = "not measured", NOT_DECIDED
    if skew and groups:
        rates = "; ".join(f"{group} {skew_report.match_rate(row)}" for group, row in groups.items())
        found = f"{rates} ({skew['date'][:10]}, skew.html)"
        state = FAILED if any(row["high"] < min_match_rate for row in groups.values()) else OK
    required = f"not shown to match below {min_match_rate:.0%}"
    return Check("Serving reads what the dataset holds", found, required, state)


def _age_check(age_days: float, max_age_days: float | None) -> Check:
    text = f"newest event {age_days:,.0f} days old"
    if max_age_days is None:
        return Check("Fresh data", text, "no limit is set (gate.max_age_days)", NOT_DECIDED)
    return Check("Fresh data", text, f"at most {max_age_days:g} days", OK if age_days <= max_age_days else FAILED)


def comparison_state(target: str, row: Mapping[str, Any], report: Mapping[str, Any]) -> str:
    """Whether a comparison is shown to lie above its bar, below it, or neither."""
    bar, low, high = _bar(target, report), row["relative_low"], row["relative_high"]
    if not row["users"]:
        return NOT_DECIDED
    if row["users"] < report["policy"]["min_users"] or low is None or high is None:
        return OPEN
    if high < bar:
        return FAILED
    return OK if (low >= bar if bar else low > 0) else OPEN


def segment_state(row: Mapping[str, Any], report: Mapping[str, Any]) -> str:
    """Whether a segment is shown to lose more than the margin, not to, or neither."""
    policy = report["policy"]
    if not row["tested"]:
        return NOT_DECIDED
    if row["p_holm"] <= policy["alpha"] / report.get("looks", 1):
        return FAILED
    low = row["relative_low"]
    return OK if low is not None and low >= -policy["segment_margin"] else OPEN


def _opponents(report: Mapping[str, Any]) -> list[tuple[str, Any]]:
    comparisons = report["evidence"].get("comparisons", {})
    return [(opponent, comparisons[opponent]) for opponent in OPPONENTS if opponent in comparisons]


def _bar(target: str, report: Mapping[str, Any]) -> float:
    """The relative difference that a target must exceed."""
    return 0.0 if target == report["primary"] else -report["policy"]["margin"]


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


# --- the sections of the page


def _section(title: str, about: str, rows: Sequence[Mapping[str, str]] = ()) -> list[str]:
    """A heading, an explanation and a table; nothing without rows."""
    return [f'<h2>{title}</h2><p class="small">{escape(about)}</p>{table(rows)}'] if rows else []


def _comparison_rows(report: Mapping[str, Any]) -> list[dict[str, str]]:
    """Each target against each opponent, then each segment against the champion."""
    found = report["evidence"]
    rows = [
        _figures(OPPONENTS[opponent], "all", target, row, comparison_state(target, row, report))
        for opponent, by_target in _opponents(report)
        for target, row in (by_target or {}).items()
    ]
    return rows + [
        _figures(OPPONENTS[CHAMPION], row["segment"], row["target"], row, segment_state(row, report))
        for row in found.get("segments", [])
    ]


def _figures(opponent: str, users: str, target: str, row: Mapping[str, Any], state: str) -> dict[str, str]:
    return {
        "against": opponent,
        "users": users,
        "target": target,
        "number of users": f"{row['users']:,}",
        "cases": f"{row['cases']:,}",
        "candidate": decimal_text(row["candidate"]),
        "opponent": decimal_text(row["against"]),
        "relative difference": signed(row),
        "p (Holm)": f"{row['p_holm']:.2g}" if row.get("tested") else "",
        "": _badge(state),
    }


def _same_data_refit(report: Mapping[str, Any]) -> list[str]:
    refit = report["evidence"].get("refit")
    if refit is None:
        return []
    title = "Is it the idea, or only the fresher data?"
    if refit["reason"] is not None:
        text = f"The champion's configuration was not fitted on the candidate's data: {refit['reason']}."
        return [f'<h2>{title}</h2><p class="small">{escape(text)}</p>']
    rows = [
        {
            "target": target,
            "fresher data alone": signed(refit["data"][target]),
            "the idea alone": signed(refit["idea"][target]),
        }
        for target in refit["data"]
    ]
    about = (
        f"The champion's configuration, fitted on the candidate's data in {refit['seconds']} s. Its gain over the champion "
        "comes from the data; the candidate's gain over it comes from the idea. It does not influence the verdict."
    )
    return _section(title, about, rows)


def _provenance(report: Mapping[str, Any]) -> list[str]:
    code, looks, policy = report["code"], report.get("looks"), report["policy"]
    ends = [report[key][:16].replace("T", " ") for key in ("holdout_start", "holdout_end") if key in report]
    facts = {
        "holdout": f"{' to '.join(ends)} UTC" if ends else "not looked at",
        "looks at this holdout": f"look {looks}: alpha = {policy['alpha']} / {looks}" if looks else "none spent",
        "dataset": f"{report['dataset']}, hash {report.get('dataset_hash', '-')}, newest event "
        f"{report.get('newest_event', '-')[:10]}",
        "split": report.get("split_id", "-"),
        "code that judged": f"{code['commit']} ({code['changed'] or code['unknown'] or 'as committed'})",
    } | {
        role: f"{one['label']}, fitted until {one['fit_until']} on data {one['dataset_hash']}, commit {one['commit']}"
        for role, one in report.get("artifacts", {}).items()
    }
    return [
        f"<h2>Provenance</h2>{table([{'': name, ' ': value} for name, value in facts.items()], head=False)}",
        f"<h2>Policy</h2><p class='small'>Version {policy['version']}, hash <code>{report['policy_hash']}</code>: the "
        f"section <code>gate</code> of params.yaml.</p><pre>{escape(json.dumps(policy, indent=1))}</pre>",
    ]


def _cells(row: Check) -> dict[str, str]:
    return {"check": row.name, "found": row.found, "required": row.required}


def _badge(state: str) -> Html:
    return Html(f'<span class="{state}">{BADGES[state]}</span>')
