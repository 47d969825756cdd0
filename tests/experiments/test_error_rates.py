"""The gate's simulated error rates: populations with a known true effect, judged as the gate judges."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from config import params
from config.command import UserError
from experiments import error_rates
from experiments.error_rates import (
    BETTER,
    EQUAL,
    PRIMARY_ONLY,
    WORSE,
    Population,
    conclusion,
    markdown,
    min_users,
    promoted_shares,
)
from experiments.evaluation import bootstrap
from experiments.gating import verdict

POLICY = params.load().gate
RNG = np.random.default_rng(0)


def world(users: int = 400) -> Population:
    """Users with 1 to 5 cases of each target and gains that are noise about nothing in particular."""
    count = RNG.integers(1, 6, (users, 2)).astype(float)
    base = RNG.gamma(2, 0.1, (users, 2)) * count
    return Population(RNG.normal(0.01, 0.05, (users, 2)) * np.sqrt(count), base, count)


def rankings(ranks: dict[tuple[str, str, str], int]) -> pd.DataFrame:
    """(target, user, case) -> rank of the one true item."""
    return pd.DataFrame([
        {"case_id": case, "user_id": user, "target": target, "true_ranks": [rank]}
        for (target, user, case), rank in ranks.items()
    ])  # fmt: skip


CASES = [("horizon", "ann", "w1"), ("next_item", "ann", "n1"), ("next_item", "ann", "n2"), ("next_item", "bob", "n3")]


def test_a_population_holds_each_users_sums() -> None:
    champion = rankings(dict(zip(CASES, (1, 1, 11, 3), strict=True)))
    candidate = rankings(dict(zip(CASES, (3, 1, 1, 1), strict=True)))

    found = Population.of(champion, candidate)

    half = 1 / np.log2(3 + 1)  # NDCG of one true item at rank 3; at rank 1 it is 1, beyond 10 nothing
    np.testing.assert_allclose(found.base, [[1, 1], [0, half]])
    np.testing.assert_allclose(found.gain, [[half - 1, 1], [0, 1 - half]])
    np.testing.assert_array_equal(found.count, [[1, 2], [0, 1]])


def test_other_cases_are_refused() -> None:
    ours = rankings(dict.fromkeys(CASES, 1))
    with pytest.raises(UserError, match="hold different next_item cases"):
        Population.of(ours, rankings(dict.fromkeys([*CASES[:3], ("next_item", "cy", "n3")], 1)))
    with pytest.raises(UserError, match="hold no horizon cases"):
        Population.of(ours[ours["target"] == "next_item"], ours)


def test_an_effect_is_exact_and_leaves_the_noise() -> None:
    plain = world()
    made = plain.with_effect([0.1, -0.02])

    np.testing.assert_allclose(made.effect, [0.1, -0.02])
    shift = (made.gain - plain.gain) / plain.base
    np.testing.assert_allclose(shift, np.broadcast_to(shift[0], shift.shape))


def test_a_simulated_look_is_judged_by_the_intervals_of_a_real_one(monkeypatch: pytest.MonkeyPatch) -> None:
    people, seen = world(30), []

    def decide(targets: dict, policy: params.Gate) -> verdict.GateDecision:
        seen.append(targets)
        return verdict.GateDecision("HOLD", "", "")

    monkeypatch.setattr(verdict, "decide_against", decide)
    drawn = np.arange(30)[:, None]  # everybody once
    weights = np.concatenate(list(bootstrap.resample_weights(30, 200, 7)))
    error_rates.judge_looks(people, drawn, weights, POLICY)

    for at, target in enumerate(("horizon", "next_item")):
        user = np.repeat(np.arange(30), people.count[:, at].astype(int))
        share = people.count[user, at]
        theirs, gain = people.base[user, at] / share, people.gain[user, at] / share
        level = verdict.interval_level(POLICY, 1)
        real = bootstrap.paired_differences(theirs + gain, theirs, user, {}, 0.0, 7, 200, level)[bootstrap.ALL_CASES]
        assert seen[0][target]["users"] == 30
        for name in ("difference", "low", "high", "relative", "relative_low", "relative_high"):
            assert seen[0][target][name] == pytest.approx(real[name], rel=1e-9), (target, name)


def test_the_verdicts_follow_the_truth_of_a_world() -> None:
    people = world()

    def promoted(*effect: float) -> float:
        counted = error_rates.simulate_verdicts(people.with_effect(effect), 150, 400, POLICY, 200, seed=1)
        assert sum(counted.values()) == 400
        return counted["PROMOTE"] / 400

    assert promoted(0.5, 0.5) > 0.99
    assert promoted(0.0, 0.0) < 0.05
    assert promoted(-0.02, 0.5) < 0.1  # worse by the margin on `horizon`: alpha, and what 400 looks leave open
    assert promoted(0.5, -0.5) == 0


def test_the_same_seed_gives_the_same_verdicts() -> None:
    people = world(60)
    first, again, other = (error_rates.simulate_verdicts(people, 50, 100, POLICY, 100, seed) for seed in (3, 3, 4))

    assert first == again
    assert first != other


def point(what: str, users: int, promoted: int, effect: float = 0.0, of: int = 1000) -> dict:
    return {"what": what, "users": users, "looks": of, "effect": {"next_item": effect, "horizon": 0.0},
            "verdicts": {"PROMOTE": promoted, "HOLD": of - promoted}}  # fmt: skip


def test_points_of_several_pairs_are_pooled() -> None:
    pairs = [{"kind": "seeds", "points": [point(EQUAL, 50, promoted)]} for promoted in (10, 30)]

    assert promoted_shares({"pairs": pairs}).loc[50, "seeds: equal on average"] == 0.02


def facts(worse: int = 40) -> dict:
    points = [point(EQUAL, users, 20) for users in (50, 100)]
    points += [point(WORSE, 50, 90), point(WORSE, 100, worse)]
    points += [point(what, users, 900, 0.5) for what in (BETTER, PRIMARY_ONLY) for users in (50, 100)]
    made = {
        "dataset": "made", "split_id": "s", "labels": ["ours", "theirs"], "seed": 0, "commit": "c", "date": "d",
        "command": "python -m experiments.error_rates", "policy": POLICY.model_dump(),
        "settings": {"looks": 1000, "power_looks": 1000, "users": [50, 100], "effects": [0.5], "detectable": 0.5},
        "pairs": [{"pair": "ours against theirs", "kind": "models", "users": 9, "points": points}],
    }  # fmt: skip
    return made | {"min_users": min_users(made)}


def test_min_users_keeps_both_errors_and_detects_the_effect() -> None:
    assert facts()["min_users"] == 100
    assert facts(worse=90)["min_users"] is None


def test_min_users_holds_for_every_larger_number_too() -> None:
    made = facts()
    made["pairs"][0]["points"] += [point(EQUAL, 200, 60), point(WORSE, 200, 10), point(BETTER, 200, 900, 0.5)]
    assert min_users(made) is None, "too many equal candidates are promoted at 200 users"

    made["pairs"].append({"kind": "seeds", "points": [point(EQUAL, users, 10) for users in (50, 100, 200)]})
    assert min_users(made) == 100, "equal candidates are read from seeds where there are several"


def test_the_conclusion_says_what_was_reached_and_what_was_not() -> None:
    assert "from 100 users on, the gate promotes equal candidates in at most 2.0% of holdouts" in conclusion(facts())
    assert "worse by the margin in at most 4.0%" in conclusion(facts())
    assert "no simulated number of users keeps both errors at 5%" in conclusion(facts(worse=90))


def test_the_page_shows_every_share() -> None:
    text = markdown(facts())

    assert "| models: better on the primary target, worse by the margin on the other | 9.0% | 4.0% |" in text
    assert "| +50%, better on both targets | 90.0% | 90.0% |" in text
