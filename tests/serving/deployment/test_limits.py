"""The tests behind a rollback: right by hand and by scipy, deaf to chance, and quick where something is broken."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from config import params
from config.paths import ROOT
from serving.deployment import rollout_evidence
from serving.deployment.rollout_evidence import Evidence, Side

PLAN = params.load(ROOT / "params.yaml").rollout


def side(calls: int, errors: int = 0, seconds: float = 0.005) -> Side:
    made = Side()
    for number in range(calls):
        made.saw(number < errors, seconds)
    return made


def test_fishers_test_is_that_of_the_tea_tasting_and_of_scipy() -> None:
    assert rollout_evidence.fisher(4, 4, 0, 4) == pytest.approx(1 / 70)  # all four cups of eight
    assert rollout_evidence.fisher(3, 4, 1, 4) == pytest.approx((1 + 16) / 70)
    for ours, calls, theirs, others in [(5, 80, 3, 900), (0, 50, 4, 60), (12, 40, 30, 200)]:
        table = [[ours, calls - ours], [theirs, others - theirs]]
        assert rollout_evidence.fisher(ours, calls, theirs, others) == pytest.approx(
            stats.fisher_exact(table, "greater")[1]
        )


def test_the_binomial_tail_is_scipys() -> None:
    for hits, trials in [(0, 10), (1, 10), (7, 200), (30, 1000), (5, 100_000)]:
        assert rollout_evidence.binomial_tail(hits, trials, 0.01) == pytest.approx(
            stats.binom.sf(hits - 1, trials, 0.01)
        )


def test_a_version_that_always_fails_is_known_after_a_dozen_requests() -> None:
    assert (
        rollout_evidence.passed(Evidence(side(1000), side(12, errors=12)), PLAN) == "errors 12 of 12, against 0 of 1000"
    )


def test_one_error_is_no_reason_to_go_back_nor_to_go_on() -> None:
    seen = Evidence(side(1000), side(100, errors=1))
    assert rollout_evidence.passed(seen, PLAN) is None
    assert rollout_evidence.doubtful(seen, PLAN) == "errors 1 of 100, against 0 of 1000"


def test_as_many_errors_as_the_champion_has_are_no_fault_of_the_candidate() -> None:
    seen = Evidence(side(1000, errors=300), side(1000, errors=303))
    assert rollout_evidence.passed(seen, PLAN) is None
    assert rollout_evidence.doubtful(seen, PLAN) is None


def test_a_slow_version_is_judged_only_once_each_has_its_requests() -> None:
    few = Evidence(side(PLAN.min_requests), side(PLAN.min_requests - 1, seconds=0.02))
    assert rollout_evidence.passed(few, PLAN) is None
    enough = Evidence(side(PLAN.min_requests), side(PLAN.min_requests, seconds=0.02))
    assert str(rollout_evidence.passed(enough, PLAN)).startswith("p99 20.")


def test_a_version_within_the_ratio_is_not_slow() -> None:
    seen = Evidence(side(1000, seconds=0.01), side(1000, seconds=0.01 * PLAN.limits.p99_ratio * 0.95))
    assert rollout_evidence.passed(seen, PLAN) is None
    assert rollout_evidence.doubtful(seen, PLAN) is None


def test_the_p99_is_the_worst_call_of_a_hundred_to_a_bucket() -> None:
    times = Side()
    for number in range(1, 201):
        times.saw(False, number / 1000)
    assert 0.198 <= times.p99() <= 0.198 * rollout_evidence.GROWTH
    assert times.slower(times.p99()) == pytest.approx(2, abs=5)
    assert times.slower(0.2 * rollout_evidence.GROWTH) == 0


def test_lists_without_a_common_item_are_a_drift_and_a_new_order_is_none() -> None:
    items = [f"item-{number}" for number in range(10)]
    strange, turned = Evidence(), Evidence()
    for _ in range(1000):
        strange.compare(items, ["other"])
        turned.compare(items, items[::-1])
    assert rollout_evidence.passed(strange, PLAN) == "overlap 0.00, and 1000 other first items, of 1000 compared"
    assert rollout_evidence.passed(turned, PLAN) is None
    assert (turned.mean_overlap, turned.first_changed) == (1.0, 1000)


def test_a_version_as_good_as_the_champion_is_rolled_back_as_rarely_as_alpha_says() -> None:
    """Looked at after each of 400 requests of either; errors and lateness are of the same law on both sides."""
    plan = PLAN.model_copy(update={"limits": PLAN.limits.model_copy(update={"alpha": 0.1, "error_excess": 0.0})})
    generator = np.random.default_rng(0)
    stories, stopped = 150, 0
    for _ in range(stories):
        seen, judged = Evidence(), 0
        fails = generator.random((400, 2)) < 0.05
        for ours, theirs in fails:
            seen.candidate.saw(bool(ours), 0.005)
            seen.champion.saw(bool(theirs), 0.005)
            if rollout_evidence.look(seen) > judged:
                judged = rollout_evidence.look(seen)
                if rollout_evidence.passed(seen, plan):
                    stopped += 1
                    break
    assert stopped <= stats.binom.ppf(0.999, stories, 0.1)


def test_looks_become_rarer_as_evidence_grows() -> None:
    looks = [rollout_evidence.look(Evidence(candidate=side(calls))) for calls in range(1, 2000)]
    assert looks[:7] == [0] * 7
    assert looks == sorted(looks)
    assert looks[-1] == 1 + int(math.log(1999 / 8, 1.25))


def test_what_processes_count_sums_by_step_and_outlives_them(tmp_path: Path) -> None:
    place = tmp_path / "tiny.json"
    for name, step, errors in [("1-1", "now", 1), ("2-1", "now", 2), ("3-1", "before", 4)]:
        one = Evidence(side(10), side(5, errors=errors))
        one.compare(["a", "b"], ["b", "c"])
        rollout_evidence.write(rollout_evidence.folder(place) / f"{name}.json", step, one)
    (rollout_evidence.folder(place) / "4-1.json").write_text("{half")
    whole = rollout_evidence.total(place, "now")
    assert (whole.champion.calls, whole.candidate.errors, whole.compared, whole.overlap) == (20, 3, 2, 1.0)
    assert whole.candidate.p99() == side(1).p99()
    rollout_evidence.forget(place, "now")
    assert {path.name for path in rollout_evidence.folder(place).iterdir()} == {"1-1.json", "2-1.json"}
