"""What the gate asked, what it found and how each came out: rows of the page's first table, and lines of its picture."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from experiments.gating import verdict
from experiments.gating.picture import BAD, GOOD, NONE, OPEN, Line
from experiments.gating.verdict import BASELINE, CHAMPION, TARGETS
from experiments.serving_skew import record as skew_record

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


def lines(report: Mapping[str, Any]) -> list[tuple[str, list[Line]]]:
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
