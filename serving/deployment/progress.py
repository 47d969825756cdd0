"""What a trial waits for, and what comes next: pure, so that the one who acts and the one who asks see the same."""

from __future__ import annotations

from datetime import datetime

from serving.deployment import limits
from serving.deployment.evidence import Evidence
from serving.deployment.stage import Phase, Stage


def waits_for(standing: Stage, seen: Evidence, at: datetime) -> list[str]:
    """What is missing before a trial goes on, in words; empty: nothing."""
    plan = standing.plan
    assert plan is not None
    shadow = standing.phase is Phase.SHADOW
    seconds = plan.shadow_seconds if shadow else plan.bake_seconds
    lacking = []
    if (left := seconds - (at - standing.since).total_seconds()) > 0:
        lacking.append(f"{left:.0f} s")
    if shadow and seen.compared < plan.shadow_requests:
        lacking.append(f"{plan.shadow_requests - seen.compared} more comparisons")
    if not shadow and seen.candidate.calls < plan.min_requests:
        lacking.append(f"{plan.min_requests - seen.candidate.calls} more requests")
    if not lacking and (doubt := limits.doubtful(seen, plan)):
        lacking.append(f"better figures: {doubt}")
    return lacking


def following(standing: Stage, at: datetime) -> Stage:
    """The stage after this step of a trial."""
    plan = standing.plan
    assert plan is not None
    step = 0 if standing.phase is Phase.SHADOW else standing.step + 1
    if step < len(plan.canary):
        more = {"phase": Phase.CANARY, "step": step, "share": plan.canary[step]}
    else:
        more = {"phase": Phase.SWITCH, "step": 0, "share": 0.0}
    return standing.model_copy(update={"since": at, **more})


def name(standing: Stage) -> str:
    """A step in words."""
    words = {
        Phase.SHADOW: f"shadow: {standing.version} answers copies of requests",
        Phase.CANARY: f"canary: {standing.version} answers {100 * standing.share:g}% of the users",
        Phase.SWITCH: f"switch: {standing.version} is to become the default",
        Phase.SERVES: f"none: {standing.version} serves everybody",
        Phase.BACK: f"rollback: {standing.previous} answers, and is to become champion again",
    }
    return words[standing.phase]


def comes_next(standing: Stage, seen: Evidence, at: datetime) -> str:
    """What would happen next, and after what."""
    if standing.phase is Phase.SERVES:
        return "nothing, until the registry names another champion"
    if not standing.tried:
        return "`python -m serving.deploy` ends it"
    after = " and ".join(waits_for(standing, seen, at)) or "its driver looks"
    back = f"; beyond a limit {standing.previous} answers everybody at once"
    return f"{name(following(standing, at))}, after {after}{back}"
