"""Turn evidence into a verdict: PROMOTE, HOLD, REJECT or INSUFFICIENT_DATA.

The rule is a pure function of numbers. A candidate must be better on the primary target and not worse on the other
one, against the champion and against the best baseline. docs/gate.md explains it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from config import params
from experiments.evaluation.bootstrap import users_to_decide
from experiments.evaluation.cases import TARGETS

PROMOTE, HOLD, REJECT, INSUFFICIENT_DATA = "PROMOTE", "HOLD", "REJECT", "INSUFFICIENT_DATA"
CHAMPION, BASELINE = "champion", "baseline"
OPPONENTS = {CHAMPION: "champion", BASELINE: "best baseline"}
MAX_USERS = 10_000_000  # no platform waits for more users than this

KEEP_WORSE = "keep the champion; the segments below and the leaderboard show where the candidate loses"
DEPLOY = "run `python -m serving.deploy` to bring it live; `make rollback` returns to the version before it"


class GateDecision(NamedTuple):
    """A verdict, its reason, and what to do next."""

    verdict: str
    reason: str
    advice: str


def alpha_per_look(policy: params.Gate, looks: int) -> float:
    """One-sided level of each test at this look at the holdout: alpha divided by the number of looks."""
    return policy.alpha / max(looks, 1)


def interval_level(policy: params.Gate, looks: int) -> float:
    """Level of a two-sided interval, each of whose bounds is a one-sided test at `alpha_per_look`."""
    return 1 - 2 * alpha_per_look(policy, looks)


def decide(evidence: Mapping[str, Any], policy: params.Gate) -> GateDecision:
    """Decide on all evidence.

    Args:
        evidence: {"looks", "age_days", "comparisons": {"champion" | "baseline": targets as in `decide_against`, or
            None}, "segments": rows with "tested" and "p_holm", "guard_rails" and "budgets": rows with "within"}.
            Evidence that is absent does not count.
    """
    max_age = policy.max_age_days
    if max_age is not None and evidence["age_days"] > max_age:
        reason = (
            f"stale data: the newest event is {evidence['age_days']:.1f} days old, gate.max_age_days is {max_age:g}"
        )
        return GateDecision(HOLD, reason, "ingest newer events, run `dvc repro`, and run the gate again")
    if failed := broken_budget(evidence.get("budgets", [])):
        return failed
    looks = evidence.get("looks", 1)
    decisions = [
        decide_against(targets, policy, looks, opponent)
        for opponent, targets in evidence["comparisons"].items()
        if targets is not None
    ] or [decide_against({}, policy, looks)]
    return (
        _first(decisions, INSUFFICIENT_DATA)
        or _first(decisions, REJECT)
        or losing_segment(evidence.get("segments", []), policy, looks)
        or broken_guard_rail(evidence.get("guard_rails", []))
        or _first(decisions, HOLD)
        or GateDecision(PROMOTE, "; ".join(decision.reason for decision in decisions), DEPLOY)
    )


def decide_against(
    targets: Mapping[str, dict], policy: params.Gate, looks: int = 1, opponent: str = CHAMPION
) -> GateDecision:
    """Decide against one opponent, on both targets.

    Args:
        targets: target -> the number of users, the differences from the opponent and their bounds at
            `interval_level`, as `experiments.evaluation.bootstrap.paired_differences` returns them.
    """
    primary = policy.primary
    other = next(target for target in TARGETS if target != primary)
    for target in (primary, other):
        users = targets.get(target, {}).get("users", 0)
        if users < policy.min_users:
            return _too_few_users(target, users, targets, policy, looks)
    first, second = targets[primary], targets[other]
    name, margin = OPPONENTS[opponent], policy.margin
    numbers = f"{primary} {signed(first)}, {other} {signed(second)} in NDCG@10"
    if first["high"] is not None and first["high"] < 0:
        return GateDecision(REJECT, f"worse than the {name} on {primary}: {numbers}", KEEP_WORSE)
    if second["relative_high"] is not None and second["relative_high"] < -margin:
        return GateDecision(
            REJECT, f"worse than the {name} on {other} by more than {margin:.0%}: {numbers}", KEEP_WORSE
        )
    if first["low"] is None or not first["low"] > 0:
        reason = f"not shown to be better than the {name} on {primary}: {numbers}"
        return GateDecision(HOLD, reason, _more_users(first, 0, policy, looks))
    if second["relative_low"] is not None and not second["relative_low"] >= -margin:
        reason = f"not shown to be within {margin:.0%} of the {name} on {other}: {numbers}"
        return GateDecision(HOLD, reason, _more_users(second, -margin, policy, looks))
    return GateDecision(PROMOTE, f"{numbers} over the {name}", DEPLOY)


def broken_budget(budgets: Iterable[dict]) -> GateDecision | None:
    """Reject a candidate that exceeds a budget; the first one is named."""
    row = next((row for row in budgets if not row["within"]), None)
    if row is None:
        return None
    name, unit = row["name"], row["unit"]
    reason = (
        f"over budget: {name} is {row['candidate']:g} {unit}, the limit is {row['limit']:g} {unit} "
        f"(champion {row['champion']:g})"
    )
    return GateDecision(REJECT, reason, f"make the candidate smaller or faster, or raise gate.budgets ({name})")


def losing_segment(segments: Iterable[dict], policy: params.Gate, looks: int) -> GateDecision | None:
    """Reject a candidate that loses more than the margin in a segment, all tests together at `alpha_per_look` (Holm)."""
    lost = [row for row in segments if row["tested"] and row["p_holm"] <= alpha_per_look(policy, looks)]
    if not lost:
        return None
    names = ", ".join(f"{row['segment']} on {row['target']} {signed(row)}" for row in lost)
    advice = "improve the model for these users, or serve them the champion; a gain on average can hide their loss"
    return GateDecision(REJECT, f"worse by more than {policy.segment_margin:.0%} in a segment: {names}", advice)


def broken_guard_rail(guard_rails: Iterable[dict]) -> GateDecision | None:
    """Reject a candidate whose lists break a guard rail; the first one is named."""
    row = next((row for row in guard_rails if not row["within"]), None)
    if row is None:
        return None
    reason = (
        f"guard rail: {row['name'].replace('_', ' ')} is {row['candidate']:.3f}, the limit is {row['kind']} "
        f"{row['limit']:.3f} (champion {row['champion']:.3f})"
    )
    return GateDecision(REJECT, reason, "raise serve.diversity, limit a category with serve.at_most, or fit again")


def signed(row: Mapping[str, Any]) -> str:
    """A relative difference and its interval as text: `+3.2% [+1.0%, +5.1%]`."""
    if row["relative"] is None:
        return "undefined"
    if row["relative_low"] is None:
        return f"{row['relative']:+.1%}"
    return f"{row['relative']:+.1%} [{row['relative_low']:+.1%}, {row['relative_high']:+.1%}]"


def _first(decisions: Iterable[GateDecision], verdict: str) -> GateDecision | None:
    return next((decision for decision in decisions if decision.verdict == verdict), None)


def _too_few_users(
    target: str, users: int, targets: Mapping[str, dict], policy: params.Gate, looks: int
) -> GateDecision:
    reason = f"{users} users have {target} cases after the cut; at least {policy.min_users} are needed"
    bars = {name: 0.0 if name == policy.primary else -policy.margin for name in TARGETS}
    estimates = [
        users_to_decide(row, bars[name], alpha_per_look(policy, looks), policy.power) for name, row in targets.items()
    ]
    needed = max([policy.min_users, *(number for number in estimates if number is not None)])
    if needed > policy.min_users:
        reason += f"; judging by the spread, about {needed:,} would decide"
    advice = f"wait until {min(needed, MAX_USERS):,} users have acted after the cut, and run the gate again"
    return GateDecision(INSUFFICIENT_DATA, reason, advice)


def _more_users(row: dict, bar: float, policy: params.Gate, looks: int) -> str:
    number = users_to_decide(row, bar, alpha_per_look(policy, looks), policy.power)
    if number is None or number > MAX_USERS:
        return "keep the champion: the two are so alike that no realistic number of users would tell them apart"
    return (
        f"keep the champion, and run the gate again on newer events: about {number:,} users would decide with power "
        f"{policy.power:.0%} if the difference stays the same ({row['users']:,} acted)"
    )
