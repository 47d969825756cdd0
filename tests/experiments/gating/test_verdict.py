"""The rule on typed evidence: better on one target, not worse on the other, and nothing else broken."""

from __future__ import annotations

import pytest
from gate_reports import found

from config import params
from config.paths import ROOT
from experiments.gating.verdict import (
    HOLD,
    INSUFFICIENT_DATA,
    PROMOTE,
    REJECT,
    alpha_per_look,
    decide,
    decide_against,
    interval_level,
)

SHIPPED = params.load(ROOT / "params.yaml").gate
POLICY = SHIPPED.model_copy(
    update={"primary": "next_item", "alpha": 0.05, "margin": 0.02, "min_users": 100, "max_age_days": 14.0}
)


BETTER = {"next_item": found(0.01, 0.05), "horizon": found(-0.01, 0.03)}


def evidence(**changes: object) -> dict:
    """Evidence that promotes, changed."""
    plain = {"looks": 1, "age_days": 1.0, "comparisons": {"champion": BETTER, "baseline": BETTER}}
    return plain | {"segments": [], "guard_rails": [], "budgets": []} | changes


@pytest.mark.parametrize(
    ("following", "horizon", "verdict"),
    [
        (found(0.01, 0.05), found(-0.01, 0.03), PROMOTE),
        (found(0.01, 0.05), found(-0.02, 0.03), PROMOTE),
        (found(-0.01, 0.05), found(0.01, 0.03), HOLD),
        (found(0.0, 0.0), found(0.0, 0.0), HOLD),
        (found(0.01, 0.05), found(-0.03, 0.03), HOLD),
        (found(-0.05, -0.01), found(0.01, 0.03), REJECT),
        (found(0.01, 0.05), found(-0.09, -0.03), REJECT),
        (found(0.01, 0.05, users=99), found(0.01, 0.03), INSUFFICIENT_DATA),
        (found(0.01, 0.05), found(0.01, 0.03, users=99), INSUFFICIENT_DATA),
    ],
)
def test_the_verdict_follows_from_both_intervals(following: dict, horizon: dict, verdict: str) -> None:
    targets = {"next_item": following, "horizon": horizon}

    assert decide_against(targets, POLICY).verdict == verdict
    for role in ("champion", "baseline"):
        of = {"champion": BETTER, "baseline": BETTER} | {role: targets}
        assert decide(evidence(comparisons=of), POLICY).verdict == verdict


def test_without_cases_the_verdict_says_how_many_users_are_needed() -> None:
    verdict, reason, _ = decide_against({}, POLICY)

    assert verdict == INSUFFICIENT_DATA
    assert "0 users" in reason
    assert "100" in reason


def test_too_few_users_bring_the_number_that_would_decide() -> None:
    # The half width is 1.645 spreads, .1; 50 users; .02 from the bar: 50 * 6.183 * (.1 / 1.645 / .02)^2 = 2,856.
    few = {"next_item": found(-0.08, 0.12, users=50), "horizon": found(0.3, 0.5, users=50)}
    verdict, reason, advice = decide_against(few, POLICY)

    assert (verdict, reason[:8]) == (INSUFFICIENT_DATA, "50 users")
    assert "about 2,856 would decide" in reason
    assert "2,856 users" in advice


def test_a_hold_says_how_many_users_would_decide() -> None:
    advice = decide_against({"next_item": found(-0.01, 0.05), "horizon": found(0.01, 0.03)}, POLICY).advice

    # .02 from 0 with a spread of .03 / 1.645, 200 users: 200 * 6.183 * (.03 / 1.645 / .02)^2 = 1,029
    assert "about 1,029 users would decide with power 80%" in advice


def test_every_further_look_requires_stronger_evidence() -> None:
    assert [interval_level(POLICY, looks) for looks in (1, 2, 5)] == pytest.approx([0.90, 0.95, 0.98])
    assert alpha_per_look(POLICY, 3) == pytest.approx(0.05 / 3)


def test_a_candidate_no_better_than_the_best_baseline_is_not_promoted() -> None:
    level_with_it = {"next_item": found(-0.01, 0.02), "horizon": found(0.0, 0.03)}
    decided = decide(evidence(comparisons={"champion": BETTER, "baseline": level_with_it}), POLICY)

    assert decided.verdict == HOLD
    assert decided.reason.startswith("not shown to be better than the best baseline on next_item")


def test_a_champion_that_is_the_best_baseline_is_compared_once() -> None:
    assert decide(evidence(comparisons={"champion": BETTER, "baseline": None}), POLICY).verdict == PROMOTE


def test_a_stale_dataset_decides_nothing() -> None:
    decided = decide(evidence(age_days=14.5), POLICY)

    assert decided.verdict == HOLD
    assert decided.reason == "stale data: the newest event is 14.5 days old, gate.max_age_days is 14"
    assert decide(evidence(age_days=13.5), POLICY).verdict == PROMOTE
    assert decide(evidence(age_days=999.0), POLICY.model_copy(update={"max_age_days": None})).verdict == PROMOTE


def segment(p: float, tested: bool = True) -> dict:
    return found(-0.3, -0.1) | {"segment": "lapsed", "target": "horizon", "tested": tested, "p_holm": p}


@pytest.mark.parametrize(
    ("row", "looks", "verdict"),
    [
        (segment(0.03), 1, REJECT),
        (segment(0.03), 2, PROMOTE),  # .05 / 2: two looks shared
        (segment(0.06), 1, PROMOTE),
        (segment(0.0, tested=False), 1, PROMOTE),
    ],
)
def test_a_segment_that_is_shown_to_lose_rejects_the_candidate(row: dict, looks: int, verdict: str) -> None:
    decided = decide(evidence(segments=[row], looks=looks), POLICY)

    assert decided.verdict == verdict
    if verdict == REJECT:
        assert "lapsed on horizon -20.0% [-30.0%, -10.0%]" in decided.reason


def test_a_broken_guard_rail_rejects_the_candidate() -> None:
    rail = {"name": "coverage", "candidate": 0.1, "champion": 0.6, "kind": "at least", "limit": 0.3, "within": False}
    decided = decide(evidence(guard_rails=[rail]), POLICY)

    assert decided.verdict == REJECT
    assert decided.reason == "guard rail: coverage is 0.100, the limit is at least 0.300 (champion 0.600)"
    assert decide(evidence(guard_rails=[rail | {"within": True}]), POLICY).verdict == PROMOTE


def test_a_broken_budget_rejects_the_candidate_however_few_users_there_are() -> None:
    cost = {"name": "size", "unit": "MB", "candidate": 1200.0, "champion": 3.0, "limit": 1000.0, "within": False}
    few = {"next_item": found(0.01, 0.05, users=3), "horizon": found(0.01, 0.05, users=3)}
    decided = decide(evidence(budgets=[cost], comparisons={"champion": few}), POLICY)

    assert decided.verdict == REJECT
    assert decided.reason == "over budget: size is 1200 MB, the limit is 1000 MB (champion 3)"


def test_no_candidate_is_worse_than_a_champion_that_hits_nothing() -> None:
    nothing = found(0.1, 0.2) | {"relative": None, "relative_low": None, "relative_high": None}

    assert decide_against({"next_item": found(0.01, 0.05), "horizon": nothing}, POLICY).verdict == PROMOTE
