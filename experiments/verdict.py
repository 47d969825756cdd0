"""From evidence to a verdict: a pure rule (PROTOCOL: superior on one target, not worse on the other)."""

from __future__ import annotations

import params

PROMOTE, HOLD, REJECT, INSUFFICIENT_DATA = "PROMOTE", "HOLD", "REJECT", "INSUFFICIENT_DATA"
TARGETS = ("window", "next")


def level(policy: params.Gate, looks: int) -> float:
    """Level of the two-sided interval whose either bound is a one-sided test at alpha / looks."""
    return 1 - 2 * policy.alpha / max(looks, 1)


def decide(targets: dict[str, dict], policy: params.Gate) -> tuple[str, str]:
    """Verdict and reason.

    Args:
        targets: per target users, relative difference and its bounds, candidate against champion.
    """
    primary = policy.primary
    other = next(target for target in TARGETS if target != primary)
    for target in (primary, other):
        users = targets.get(target, {}).get("users", 0)
        if users < policy.min_users:
            needed = f"{users} users act in the {target} window; at least {policy.min_users} are needed"
            return INSUFFICIENT_DATA, needed
    first, second = targets[primary], targets[other]
    shown = f"{primary} NDCG@10 {_signed(first)}, {other} {_signed(second)}"
    if first["high"] < 0:
        return REJECT, f"worse on {primary}: {shown}"
    if second["relative_high"] < -policy.margin:
        return REJECT, f"worse on {other} by more than {policy.margin:.0%}: {shown}"
    if not first["low"] > 0:
        return HOLD, f"not shown to be better on {primary}: {shown}"
    if not second["relative_low"] >= -policy.margin:
        return HOLD, f"not shown to be within {policy.margin:.0%} on {other}: {shown}"
    return PROMOTE, f"better on {primary}, not worse on {other}: {shown}"


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


def _signed(found: dict) -> str:
    return f"{found['relative']:+.1%} [{found['relative_low']:+.1%}, {found['relative_high']:+.1%}]"
