"""The tests of the limits agree with scipy, are not triggered by chance, and are quick if something is broken."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from rollout_stages import PLAN
from scipy import stats

from serving.deployment import rollout_evidence
from serving.deployment.rollout_evidence import RolloutEvidence, VersionCounts


def counts(calls: int, errors: int = 0, seconds: float = 0.005) -> VersionCounts:
    made = VersionCounts()
    for number in range(calls):
        made.count(number < errors, seconds)
    return made


def test_fishers_test_agrees_with_the_tea_tasting_and_scipy() -> None:
    assert rollout_evidence.fisher_p_value(4, 4, 0, 4) == pytest.approx(1 / 70)  # all four cups of eight
    assert rollout_evidence.fisher_p_value(3, 4, 1, 4) == pytest.approx((1 + 16) / 70)
    for ours, calls, theirs, others in [(5, 80, 3, 900), (0, 50, 4, 60), (12, 40, 30, 200)]:
        table = [[ours, calls - ours], [theirs, others - theirs]]
        assert rollout_evidence.fisher_p_value(ours, calls, theirs, others) == pytest.approx(
            stats.fisher_exact(table, "greater")[1]
        )


def test_the_binomial_tail_agrees_with_scipy() -> None:
    for hits, trials in [(0, 10), (1, 10), (7, 200), (30, 1000), (5, 100_000)]:
        assert rollout_evidence.binomial_tail(hits, trials, 0.01) == pytest.approx(
            stats.binom.sf(hits - 1, trials, 0.01)
        )


def test_a_version_that_always_fails_exceeds_the_limit_after_a_dozen_requests() -> None:
    assert (
        rollout_evidence.exceeded_limit(RolloutEvidence(counts(1000), counts(12, errors=12)), PLAN)
        == "errors 12 of 12, against 0 of 1000"
    )


def test_one_error_is_a_reason_to_wait_but_not_to_roll_back() -> None:
    seen = RolloutEvidence(counts(1000), counts(100, errors=1))
    assert rollout_evidence.exceeded_limit(seen, PLAN) is None
    assert rollout_evidence.questionable_figure(seen, PLAN) == "errors 1 of 100, against 0 of 1000"


def test_as_many_errors_as_the_champion_has_exceed_no_limit() -> None:
    seen = RolloutEvidence(counts(1000, errors=300), counts(1000, errors=303))
    assert rollout_evidence.exceeded_limit(seen, PLAN) is None
    assert rollout_evidence.questionable_figure(seen, PLAN) is None


def test_latency_is_judged_only_once_both_versions_have_their_requests() -> None:
    few = RolloutEvidence(counts(PLAN.min_requests), counts(PLAN.min_requests - 1, seconds=0.02))
    assert rollout_evidence.exceeded_limit(few, PLAN) is None
    enough = RolloutEvidence(counts(PLAN.min_requests), counts(PLAN.min_requests, seconds=0.02))
    assert str(rollout_evidence.exceeded_limit(enough, PLAN)).startswith("p99 20.")


def test_a_version_within_the_p99_ratio_is_not_slow() -> None:
    seen = RolloutEvidence(counts(1000, seconds=0.01), counts(1000, seconds=0.01 * PLAN.limits.p99_ratio * 0.95))
    assert rollout_evidence.exceeded_limit(seen, PLAN) is None
    assert rollout_evidence.questionable_figure(seen, PLAN) is None


def test_the_p99_is_exact_to_one_bucket() -> None:
    times = VersionCounts()
    for number in range(1, 201):
        times.count(False, number / 1000)
    assert 0.198 <= times.p99() <= 0.198 * rollout_evidence.GROWTH
    assert times.slower_than(times.p99()) == pytest.approx(2, abs=5)
    assert times.slower_than(0.2 * rollout_evidence.GROWTH) == 0


def test_lists_without_a_common_item_exceed_the_limit_and_a_new_order_does_not() -> None:
    items = [f"item-{number}" for number in range(10)]
    strange, turned = RolloutEvidence(), RolloutEvidence()
    for _ in range(1000):
        strange.compare(items, ["other"])
        turned.compare(items, items[::-1])
    assert rollout_evidence.exceeded_limit(strange, PLAN) == "overlap 0.00 and 1000 other first items of 1000 compared"
    assert rollout_evidence.exceeded_limit(turned, PLAN) is None
    assert (turned.mean_overlap, turned.first_changed) == (1.0, 1000)


def test_a_version_as_good_as_the_champion_is_rolled_back_at_most_at_the_rate_alpha() -> None:
    """Judged after each of 400 requests; errors and latencies have the same distribution on both sides."""
    plan = PLAN.model_copy(update={"limits": PLAN.limits.model_copy(update={"alpha": 0.1, "error_excess": 0.0})})
    generator = np.random.default_rng(0)
    stories, stopped = 150, 0
    for _ in range(stories):
        seen, judged = RolloutEvidence(), 0
        fails = generator.random((400, 2)) < 0.05
        for ours, theirs in fails:
            seen.candidate.count(bool(ours), 0.005)
            seen.champion.count(bool(theirs), 0.005)
            if rollout_evidence.number_of_looks(seen) > judged:
                judged = rollout_evidence.number_of_looks(seen)
                if rollout_evidence.exceeded_limit(seen, plan):
                    stopped += 1
                    break
    assert stopped <= stats.binom.ppf(0.999, stories, 0.1)


def test_looks_become_rarer_as_evidence_grows() -> None:
    looks = [rollout_evidence.number_of_looks(RolloutEvidence(candidate=counts(calls))) for calls in range(1, 2000)]
    assert looks[:7] == [0] * 7
    assert looks == sorted(looks)
    assert looks[-1] == 1 + int(math.log(1999 / 8, 1.25))


def test_counts_of_all_processes_are_summed_by_step(tmp_path: Path) -> None:
    place = tmp_path / "tiny.json"
    for name, step, errors in [("1-1", "now", 1), ("2-1", "now", 2), ("3-1", "before", 4)]:
        one = RolloutEvidence(counts(10), counts(5, errors=errors))
        one.compare(["a", "b"], ["b", "c"])
        rollout_evidence.write_evidence(rollout_evidence.evidence_folder(place) / f"{name}.json", step, one)
    (rollout_evidence.evidence_folder(place) / "4-1.json").write_text("{half", encoding="utf-8")
    whole = rollout_evidence.total_evidence(place, "now")
    assert (whole.champion.calls, whole.candidate.errors, whole.compared, whole.overlap) == (20, 3, 2, 1.0)
    assert whole.candidate.p99() == counts(1).p99()
    rollout_evidence.remove_other_steps(place, "now")
    assert {path.name for path in rollout_evidence.evidence_folder(place).iterdir()} == {"1-1.json", "2-1.json"}
