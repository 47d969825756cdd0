"""The gate's rule on evidence typed in: better on one target, not worse on the other."""

from __future__ import annotations

import pytest

import params
from experiments.verdict import HOLD, INSUFFICIENT_DATA, PROMOTE, REJECT, decide, index_fault, level

POLICY = params.Gate(primary="next", alpha=0.05, margin=0.02, min_users=100, min_index_recall=0.99)


def found(low: float, high: float, users: int = 200) -> dict:
    """Evidence whose champion reaches 1, so that absolute and relative differences are alike."""
    middle = (low + high) / 2
    return {
        "users": users,
        "difference": middle,
        "low": low,
        "high": high,
        "relative": middle,
        "relative_low": low,
        "relative_high": high,
    }


@pytest.mark.parametrize(
    ("following", "window", "verdict"),
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
def test_the_verdict_follows_from_both_intervals(following: dict, window: dict, verdict: str) -> None:
    assert decide({"next": following, "window": window}, POLICY)[0] == verdict


def test_a_window_without_cases_decides_nothing_and_says_how_many_users_are_needed() -> None:
    verdict, reason = decide({}, POLICY)

    assert verdict == INSUFFICIENT_DATA
    assert "0 users" in reason
    assert "100" in reason


def test_every_further_look_at_a_window_asks_for_stronger_evidence() -> None:
    assert [level(POLICY, looks) for looks in (1, 2, 5)] == pytest.approx([0.90, 0.95, 0.98])


@pytest.mark.parametrize("recall", [0.99, 1.0])
def test_an_index_that_finds_enough_may_serve(recall: float) -> None:
    assert index_fault({"index": {"kind": "faiss", "recall@20": recall}}, POLICY) is None


def test_exact_scoring_needs_no_recall() -> None:
    assert index_fault({"model": "two_tower"}, POLICY) is None


@pytest.mark.parametrize(("stated", "says"), [({"recall@20": 0.9899}, "0.9899"), ({}, "0.0000")])
def test_an_index_that_finds_less_or_states_nothing_is_refused(stated: dict, says: str) -> None:
    fault = index_fault({"index": {"kind": "faiss", **stated}}, POLICY)

    assert fault is not None
    assert fault.startswith(f"its index finds {says} of the exact best 20, below gate.min_index_recall = 0.99")
