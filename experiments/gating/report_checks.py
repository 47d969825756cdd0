"""What the gate asked, what it found and how each came out: rows of the page's first table, and lines of its picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any, NamedTuple

from experiments.gating import verdict
from experiments.gating.verdict import BASELINE, CHAMPION, TARGETS
from experiments.serving_skew import report as skew_record

GOOD, OPEN, BAD, NONE = "#1a7f37", "#9a6700", "#cf222e", "#8c959f"
LEFT, WIDTH, RIGHT, ROW, TOP = 250, 400, 230, 28, 46  # pixels
FINEST, COARSEST = 0.02, 5.0  # of the scale: how far from 0 it reaches at least and at most


class Line(NamedTuple):
    """One interval.

    Attributes:
        name: what is compared.
        mean, low, high: relative difference; None where undefined.
        bar: what it is held to: 0, or minus a margin.
        colour: of the outcome.
        told: the outcome in words.
    """

    name: str
    mean: float | None
    low: float | None
    high: float | None
    bar: float
    colour: str
    told: str


def picture(groups: Sequence[tuple[str, Sequence[Line]]]) -> str:
    """Groups of lines under their headings, all on one scale; "" without any."""
    groups = [(title, lines) for title, lines in groups if lines]
    if not groups:
        return ""
    low, high = _range(groups[0][1], [line for _, lines in groups[1:] for line in lines])

    def x(value: float) -> float:
        return LEFT + WIDTH * (min(max(value, low), high) - low) / (high - low)

    rows = sum(len(lines) + 1 for _, lines in groups)
    height = TOP + rows * ROW + 8
    parts, y = [_axis(low, high, x, height)], TOP
    for title, lines in groups:
        parts.append(f'<text x="0" y="{y + 19}" font-weight="600">{escape(title)}</text>')
        y += ROW
        for line in lines:
            parts.append(_drawn(line, x, y + ROW / 2))
            y += ROW
    return (
        f'<svg viewBox="0 0 {LEFT + WIDTH + RIGHT} {height}" role="img" font-size="13" font-family="system-ui,sans-serif">'
        f"<title>Relative differences with their intervals, against zero and margin</title>{''.join(parts)}</svg>"
    )


def _range(first: Sequence[Line], others: Sequence[Line]) -> tuple[float, float]:
    """From the intervals of the first group and the means of the others: a wide interval of few users is cut off at the
    edge, so that it does not squeeze what decides."""
    values = [value for line in first for value in (line.low, line.high)] + [line.mean for line in others]
    known = [value for value in [*values, *(line.bar for line in [*first, *others])] if value is not None]
    low, high = max(min([*known, -FINEST]), -1.0), min(max([*known, FINEST]), COARSEST)
    pad = 0.08 * (high - low)
    return low - pad, high + pad


def _axis(low: float, high: float, x, height: int) -> str:
    step = next(s for s in (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2) if (high - low) / s <= 8)
    marks = [n * step for n in range(int(low / step) - 1, int(high / step) + 2) if low <= n * step <= high]
    ticks = (
        "".join(
            f'<line x1="{x(v):.1f}" x2="{x(v):.1f}" y1="{TOP - 8}" y2="{height}" stroke="#eaeef2"/>'
            f'<text x="{x(v):.1f}" y="{TOP - 14}" text-anchor="middle" fill="#57606a">{v:+.0%}</text>'
            for v in marks
        )
        .replace("+0%", "0")
        .replace("-0%", "0")
    )
    return (
        f'{ticks}<line x1="{x(0):.1f}" x2="{x(0):.1f}" y1="{TOP - 8}" y2="{height}" stroke="#24292f" stroke-width="1.5"/>'
        f'<text x="{x(0) - 10:.1f}" y="13" text-anchor="end" fill="#57606a">◄ candidate worse</text>'
        f'<text x="{x(0) + 10:.1f}" y="13" fill="#57606a">candidate better ►</text>'
    )


def _drawn(line: Line, x, y: float) -> str:
    parts = [f'<text x="14" y="{y + 4}">{escape(line.name)}</text>']
    if line.bar < 0:
        parts.append(
            f'<line x1="{x(line.bar):.1f}" x2="{x(line.bar):.1f}" y1="{y - 13}" y2="{y + 13}" stroke="#57606a" '
            f'stroke-dasharray="3 2"/>'
        )
    if line.low is not None and line.high is not None:
        begin, end = x(line.low), x(line.high)
        parts.append(
            f'<line x1="{begin:.1f}" x2="{end:.1f}" y1="{y}" y2="{y}" stroke="{line.colour}" stroke-width="5" opacity=".55"/>'
        )
        for edge, sign, shown in ((LEFT, "‹", begin), (LEFT + WIDTH, "›", end)):
            if shown == edge:  # it goes on
                parts.append(f'<text x="{edge}" y="{y + 6}" fill="{line.colour}" font-size="20">{sign}</text>')
    if line.mean is not None:
        parts.append(f'<circle cx="{x(line.mean):.1f}" cy="{y}" r="5" fill="{line.colour}"/>')
    parts.append(f'<text x="{LEFT + WIDTH + 14}" y="{y + 4}" fill="{line.colour}">{escape(line.told)}</text>')
    return "".join(parts)


OK, FAILED, NOT_SHOWN, NOT_ASKED = "ok", "bad", "open", "none"
COLOURS = {OK: GOOD, FAILED: BAD, NOT_SHOWN: OPEN, NOT_ASKED: NONE}
WORDS = {CHAMPION: "champion", BASELINE: "best cheap baseline"}


class Check(NamedTuple):
    """One row: what is asked, what was found, the bar, and the state."""

    name: str
    found: str
    bar: str
    state: str


def checks(report: Mapping[str, Any]) -> list[Check]:
    """In the order in which a person asks; none for a report that looked at nothing."""
    found, policy = report["evidence"], report["policy"]
    if not found:
        return []
    rows = [*_compared(report), *_segments(found, policy, report.get("looks", 1))]
    if "golden_answers" in found:
        told = f"all {found['golden_answers']} golden answers reproduced"
        rows.append(Check("Champion answers as it did at export", told, "all", OK))
    if "leakage_checks" in found:
        told = f"clean: {found['leakage_checks']} checks (audit.html)"
        rows.append(Check("Nothing leaks from the future", told, "no finding that fails", OK))
    if "skew" in report:
        rows.append(_skew(report["skew"], policy["min_match_rate"]))
    if "agreement" in found:
        one = found["agreement"]
        told = f"mean overlap@10 {one['overlap']:.3f}, over {one['requests']:,} recent requests"
        state = OK if one["overlap"] >= one["bar"] else FAILED
        rows.append(Check("Lists as its parent does", told, f"at least {one['bar']:g}", state))
    for name, kind in (("guard_rails", "Lists"), ("budgets", "Cost")):
        for row in found.get(name, []):
            unit = f" {row['unit']}" if "unit" in row else ""
            told = f"{figure(row['candidate'])}{unit} (champion {figure(row['champion'])}{unit})"
            bar = f"{row.get('kind', 'at most')} {figure(row['limit'])}{unit}"
            rows.append(Check(f"{kind}: {row['name'].replace('_', ' ')}", told, bar, OK if row["within"] else FAILED))
    return rows + ([_age(found["age_days"], policy["max_age_days"])] if "age_days" in found else [])


def check_lines(report: Mapping[str, Any]) -> list[tuple[str, list[Line]]]:
    """The picture's groups: against each opponent, then by segment, then what a refit told."""
    found, policy, looks = report["evidence"], report["policy"], report.get("looks", 1)
    groups = []
    for role, by_target in opponents(found):
        drawn = [
            _line(f"{target}{' (primary)' if target == report['primary'] else ''}", by_target[target],
                  bar_of(target, report), state_of(target, by_target[target], report))
            for target in _ordered(by_target, report["primary"])
        ]  # fmt: skip
        groups.append((f"Against the {WORDS[role]}", drawn))
    rows = sorted(found.get("segments", []), key=lambda row: row["target"] != report["primary"])
    drawn = [
        _line(f"{row['segment']}, {row['target']}", row, -policy["segment_margin"], segment_state(row, policy, looks))
        for row in rows
        if row["tested"]  # of the others the table tells: a handful of users would stretch the scale
    ]
    groups.append(("By segment, against the champion", drawn))
    again = found.get("refit") or {}
    for key, title in (("data", "Fresher data alone: refitted champion against champion"),
                       ("idea", "The idea alone: candidate against refitted champion")):  # fmt: skip
        groups.append((title, [_line(t, one, 0.0, NOT_ASKED) for t, one in again.get(key, {}).items()]))
    return groups


def opponents(found: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """(role, comparisons by target), the champion first."""
    compared = found.get("comparisons", {})
    return [(role, compared[role]) for role in (CHAMPION, BASELINE) if role in compared]


def bar_of(target: str, report: Mapping[str, Any]) -> float:
    """What the relative difference on a target is held to."""
    return 0.0 if target == report["primary"] else -report["policy"]["margin"]


def state_of(target: str, one: Mapping[str, Any], report: Mapping[str, Any]) -> str:
    """Whether a comparison is above its bar, below it, or neither is shown."""
    bar, low, high = bar_of(target, report), one["relative_low"], one["relative_high"]
    if one["users"] < report["policy"]["min_users"] or low is None or high is None:
        return NOT_SHOWN
    if high < bar:
        return FAILED
    return OK if (low > bar if bar == 0 else low >= bar) else NOT_SHOWN


def segment_state(row: Mapping[str, Any], policy: Mapping[str, Any], looks: int) -> str:
    """Whether a segment is shown to lose more than the margin, to lose no more, or neither."""
    if not row["tested"]:
        return NOT_ASKED
    if row["p_holm"] <= policy["alpha"] / looks:
        return FAILED
    low = row["relative_low"]
    return OK if low is not None and low >= -policy["segment_margin"] else NOT_SHOWN


def figure(value: float | None) -> str:
    """Three digits that tell something; a dash for what is undefined."""
    return "–" if value is None else f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def signed(one: Mapping[str, Any]) -> str:
    """As a verdict states it, for a cell of a table."""
    return verdict.signed(one, "undefined")


def _compared(report: Mapping[str, Any]) -> list[Check]:
    compared = report["evidence"].get("comparisons", {})
    rows = []
    for role, by_target in opponents(report["evidence"]):
        if by_target is None:
            told = "the champion is the best cheap baseline"
            rows.append(Check("Better than the best cheap baseline", told, "see above", OK))
            continue
        for target in _ordered(by_target, report["primary"]):
            bar = bar_of(target, report)
            asked = "Better than" if bar == 0 else "Not worse than"
            rows.append(
                Check(f"{asked} the {WORDS[role]} on {target}", signed(by_target[target]),
                      "interval above 0" if bar == 0 else f"interval above {bar:.0%}",
                      state_of(target, by_target[target], report))
            )  # fmt: skip
    users = {target: one["users"] for target, one in compared.get(CHAMPION, {}).items()}
    if compared:
        least = report["policy"]["min_users"]
        told = ", ".join(f"{target} {users.get(target, 0):,}" for target in TARGETS)
        enough = all(users.get(target, 0) >= least for target in TARGETS)
        rows.insert(0, Check("Enough users", told, f"at least {least:,} each", OK if enough else FAILED))
    return rows


def _segments(found: Mapping[str, Any], policy: Mapping[str, Any], looks: int) -> list[Check]:
    tested = [row for row in found.get("segments", []) if row["tested"]]
    if not tested:
        return []
    lost = [row for row in tested if segment_state(row, policy, looks) == FAILED]
    told = ", ".join(f"{row['segment']} on {row['target']} {signed(row)}" for row in lost)
    told = told or f"none of {len(tested)} tests (Holm)"
    bar = f"no loss beyond {policy['segment_margin']:.0%} shown"
    return [Check("No segment loses", told, bar, FAILED if lost else OK)]


def _skew(measured: Mapping[str, Any] | None, at_least: float) -> Check:
    groups = [(name, of) for name, of in (measured or {}).get("groups", {}).items() if of["compared"]]
    told = "; ".join(f"{name} {skew_record.rate(of)}" for name, of in groups)
    state = FAILED if any(of["high"] < at_least for _, of in groups) else OK if groups else NOT_ASKED
    date = f" ({measured['date'][:10]}, skew.html)" if measured and groups else ""
    bar = f"not shown to match below {at_least:.0%}"
    return Check("Serving reads what the data set tells", f"{told or 'not measured'}{date}", bar, state)


def _age(age_days: float, at_most: float | None) -> Check:
    told = f"newest event {age_days:,.0f} days old"
    if at_most is None:
        return Check("Fresh data", told, "no bound is set (gate.max_age_days)", NOT_ASKED)
    return Check("Fresh data", told, f"at most {at_most:g} days", OK if age_days <= at_most else FAILED)


def _ordered(by_target: Mapping[str, Any] | None, primary: str) -> list[str]:
    return sorted(by_target or {}, key=lambda target: target != primary)


def _line(name: str, one: Mapping[str, Any], bar: float, state: str) -> Line:
    return Line(name, one["relative"], one["relative_low"], one["relative_high"], bar, COLOURS[state], signed(one))
