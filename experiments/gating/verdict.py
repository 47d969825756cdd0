"""From evidence to a verdict: a pure rule (PROTOCOL: superior on one target, not worse on the other)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from config import params
from experiments.evaluation.comparison import users_to_decide

PROMOTE, HOLD, REJECT, INSUFFICIENT_DATA = "PROMOTE", "HOLD", "REJECT", "INSUFFICIENT_DATA"
TARGETS = ("horizon", "next_item")
CHAMPION, BASELINE = "champion", "baseline"
MOST_USERS = 10_000_000  # above it no platform waits for a number of users


class Decision(NamedTuple):
    """What was decided, why, and what a person does next."""

    verdict: str
    reason: str
    advice: str


def alpha(policy: params.Gate, looks: int) -> float:
    """One-sided level of each test: alpha shared by all looks at the window (Bonferroni)."""
    return policy.alpha / max(looks, 1)


def level(policy: params.Gate, looks: int) -> float:
    """Level of the two-sided interval whose either bound is a one-sided test at alpha / looks."""
    return 1 - 2 * alpha(policy, looks)


def conclude(evidence: Mapping[str, Any], policy: params.Gate) -> Decision:
    """The decision on everything that was found.

    Args:
        evidence: {"looks", "age_days", "comparisons": {"champion" | "baseline": {target: see decide}}, "segments": rows
            with "tested" and "p_holm", "guard_rails", "budgets": rows with "within"}; what is absent does not decide.
    """
    at_most = policy.max_age_days
    if at_most is not None and evidence["age_days"] > at_most:
        reason = f"stale: the newest event is {evidence['age_days']:.1f} days old, gate.max_age_days is {at_most:g}"
        return Decision(HOLD, reason, "ingest newer events, `dvc repro`, and ask again")
    if dear := over_budget(evidence.get("budgets", [])):
        return dear  # no number of users makes it good
    looks = evidence.get("looks", 1)
    told = [(role, decide(of, policy, looks, role)) for role, of in evidence["comparisons"].items() if of is not None]
    found = dict(told) or {CHAMPION: decide({}, policy, looks)}
    if short := _first(found, INSUFFICIENT_DATA):
        return short
    if lost := _first(found, REJECT):
        return lost
    for fault in (
        harmed(evidence.get("segments", []), policy, looks),
        narrowed(evidence.get("guard_rails", [])),
    ):
        if fault:
            return fault
    return _first(found, HOLD) or _promoted(found)


def decide(
    targets: Mapping[str, dict], policy: params.Gate, looks: int = 1, against: str = CHAMPION
) -> Decision:  # fmt: skip
    """The rule on both targets, against one opponent.

    Args:
        targets: per target users, relative difference and its bounds, candidate against the opponent, at `level`.
    """
    primary = policy.primary
    other = next(target for target in TARGETS if target != primary)
    for target in (primary, other):
        users = targets.get(target, {}).get("users", 0)
        if users < policy.min_users:
            return _too_few(target, users, targets, policy, looks)
    first, second = targets[primary], targets[other]
    than = "" if against == CHAMPION else " than the best cheap baseline"
    shown = f"{primary} NDCG@10 {signed(first)}, {other} {signed(second)} on the {against}"
    if _below(first["high"], 0):
        return Decision(REJECT, f"worse{than} on {primary}: {shown}", WORSE)
    if _below(second["relative_high"], -policy.margin):
        return Decision(REJECT, f"worse{than} on {other} by more than {policy.margin:.0%}: {shown}", WORSE)
    if first["low"] is None or not first["low"] > 0:
        reason = f"not shown to be better{than} on {primary}: {shown}"
        return Decision(HOLD, reason, _more(first, 0, policy, looks))
    if second["relative_low"] is not None and not second["relative_low"] >= -policy.margin:
        reason = (
            f"not shown to be within {policy.margin:.0%}{than and ' of the best cheap baseline'} on {other}: {shown}"
        )
        return Decision(HOLD, reason, _more(second, -policy.margin, policy, looks))
    return Decision(PROMOTE, f"better on {primary}, not worse on {other}: {shown}", DEPLOY)


WORSE = "keep the champion; compare the segments below and the leaderboard to see where the candidate loses"
DEPLOY = (
    "`python -m serving.deploy` brings it live; the version before it stays loaded, `make rollback` goes back to it"
)


def over_budget(budgets: Iterable[dict]) -> Decision | None:
    """The first budget that the candidate does not keep."""
    for row in budgets:
        if not row["within"]:
            reason = (
                f"over budget: {row['name']} {row['candidate']:g} {row['unit']}, at most {row['limit']:g} {row['unit']} "
                f"(champion {row['champion']:g})"
            )
            return Decision(
                REJECT, reason, f"make the candidate smaller or faster, or raise gate.budgets ({row['name']})"
            )
    return None


def harmed(segments: Iterable[dict], policy: params.Gate, looks: int) -> Decision | None:
    """The segments that are shown to lose more than the margin, all tests together at alpha / looks (Holm)."""
    lost = [row for row in segments if row["tested"] and row["p_holm"] <= alpha(policy, looks)]
    if not lost:
        return None
    listed = ", ".join(f"{row['segment']} on {row['target']} {signed(row)}" for row in lost)
    advice = "fit or route for these users, or leave the champion to them; the whole may gain while they lose"
    return Decision(REJECT, f"worse for some by more than {policy.segment_margin:.0%}: {listed}", advice)


def narrowed(guard_rails: Iterable[dict]) -> Decision | None:
    """The first guard rail that is broken."""
    for row in guard_rails:
        if not row["within"]:
            reason = (
                f"guard rail: {row['name'].replace('_', ' ')} {row['candidate']:.3f}, {row['kind']} {row['limit']:.3f} "
                f"(champion {row['champion']:.3f})"
            )
            return Decision(
                REJECT, reason, "raise serve.diversity, bound what fills the lists (serve.at_most), or fit anew"
            )
    return None


def index_fault(manifest: dict, policy: params.Gate) -> str | None:
    """Why an artifact's index may not serve; None where it may, or there is none."""
    about = manifest.get("index")
    if about is None:
        return None
    recall = about.get("recall@20", 0.0)
    if recall >= policy.min_index_recall:
        return None
    return (
        f"its index finds {recall:.4f} of the exact best 20, below gate.min_index_recall = {policy.min_index_recall}; "
        "export with serve.index.kind: exact, or a higher serve.index.recall"
    )


def _first(found: Mapping[str, Decision], outcome: str) -> Decision | None:
    return next((one for one in found.values() if one.verdict == outcome), None)


def _promoted(found: Mapping[str, Decision]) -> Decision:
    reasons = [one.reason for one in found.values()]
    return Decision(PROMOTE, "; ".join([reasons[0], *(text.partition(": ")[2] for text in reasons[1:])]), DEPLOY)


def _too_few(target: str, users: int, targets: Mapping[str, dict], policy: params.Gate, looks: int) -> Decision:
    reason = f"{users} users act in the {target} window; at least {policy.min_users} are needed"
    bars = {t: 0.0 if t == policy.primary else -policy.margin for t in TARGETS}
    likely = [users_to_decide(of, bars[t], alpha(policy, looks), policy.power) for t, of in targets.items()]
    needed = max([policy.min_users, *(number for number in likely if number is not None)])
    if needed > policy.min_users:
        reason += f"; by their spread about {needed:,} would decide"
    return Decision(
        INSUFFICIENT_DATA,
        reason,
        f"wait until {min(needed, MOST_USERS):,} users have acted after the cut, and ask again",
    )


def _more(found: dict, bar: float, policy: params.Gate, looks: int) -> str:
    number = users_to_decide(found, bar, alpha(policy, looks), policy.power)
    if number is None or number > MOST_USERS:
        return (
            "keep the champion: the two are alike, and no number of users that can be hoped for would tell them apart"
        )
    return (
        f"keep the champion, and ask again on a new window: about {number:,} users would decide with power "
        f"{policy.power:.0%} if the difference stays ({found['users']:,} acted)"
    )


def _below(bound: float | None, bar: float) -> bool:
    return bound is not None and bound < bar


def signed(found: Mapping[str, Any], undefined: str = "has nothing to be set against") -> str:
    """`+3.2% [+1.0%, +5.1%]`."""
    if found["relative"] is None:
        return undefined
    if found["relative_low"] is None:
        return f"{found['relative']:+.1%}"
    return f"{found['relative']:+.1%} [{found['relative_low']:+.1%}, {found['relative_high']:+.1%}]"
