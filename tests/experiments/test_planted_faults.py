"""Each fault that a look at the window shows, planted in a sound candidate: it must end as it should."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
from gate_policy import POLICY
from made_features import ITEMS, checkerboard

from config import params
from experiments.evaluation.scoring import ScoredCases
from experiments.gating import evidence
from experiments.gating.verdict import HOLD, INSUFFICIENT_DATA, PROMOTE, REJECT, conclude

USERS, EACH = 300, 8


class World:
    """Sound evidence on made cases: a candidate 10% better for everybody; a test plants what is wrong with it."""

    def __init__(self, users: int = USERS, gain: float = 0.1) -> None:
        rng = np.random.default_rng(0)
        self.user = np.repeat(np.arange(users), EACH)
        self.theirs = rng.uniform(0.2, 0.6, len(self.user))
        self.noise = rng.normal(0, 0.1, len(self.user))
        self.ours = self.theirs * (1 + gain) + self.noise
        self.baseline = self.theirs * 0.8
        self.parts = {"cold": self.user % 10 == 0, "warm": self.user % 10 > 0, "segment:lapsed": self.user % 4 == 1}
        self.lists = rng.integers(0, ITEMS, (len(self.user), 10))

    def decided(self, looks: int = 1, policy: params.Gate = POLICY, **facts: Any):
        of = {"candidate": self.ours, "champion": self.theirs, "baseline": self.baseline}
        scores = {
            role: {t: ScoredCases(ndcg, self.lists) for t in ("horizon", "next_item")} for role, ndcg in of.items()
        }
        cases: Any = {target: SimpleNamespace(user=self.user) for target in ("horizon", "next_item")}
        parts = dict.fromkeys(cases, self.parts)
        found = evidence.weigh(scores, cases, parts, checkerboard(cut="test"), policy, 0, looks)
        return conclude(found | {"age_days": 1.0} | facts, policy)


def test_a_sound_candidate_is_promoted() -> None:
    assert World().decided().verdict == PROMOTE


def test_a_model_that_is_worse_in_one_segment_only_is_rejected_and_the_segment_named() -> None:
    world = World()
    inside = world.parts["segment:lapsed"]
    world.ours[inside] = world.theirs[inside] * 0.85 + world.noise[inside]
    decided = world.decided()

    assert (world.ours - world.theirs).mean() > 0
    assert decided.verdict == REJECT
    assert "worse for some by more than 2%: lapsed on" in decided.reason
    assert "cold" not in decided.reason


def test_a_model_that_is_better_on_average_but_worse_for_cold_users_is_rejected() -> None:
    world = World()
    cold = world.parts["cold"]
    world.ours[cold] = world.theirs[cold] * 0.7 + world.noise[cold]
    decided = world.decided(policy=POLICY.model_copy(update={"segment_min_users": 10_000}))

    assert (world.ours - world.theirs).mean() > 0
    assert decided.verdict == REJECT, "cold users are tested however few they are"
    assert "cold on" in decided.reason


def test_a_model_below_the_best_cheap_baseline_is_rejected_though_it_beats_a_weak_champion() -> None:
    world = World()
    world.baseline = world.theirs * 1.3
    decided = world.decided()

    assert decided.verdict == REJECT
    assert decided.reason.startswith("worse than the best cheap baseline on next_item")


def test_a_model_that_shows_everybody_the_same_is_rejected() -> None:
    world = World()
    sound = world.lists
    of = {"candidate": np.tile(np.arange(10), (len(sound), 1)), "champion": sound}
    shown = evidence.rails_of(of, checkerboard(cut="test"), POLICY)
    decided = world.decided(guard_rails=shown)

    assert decided.verdict == REJECT
    assert decided.reason.startswith("guard rail: coverage 0.250, at least 0.500 (champion 1.000)")


def test_what_passes_at_the_first_look_may_fail_at_the_third() -> None:
    world = World(gain=0.006)

    assert world.decided(looks=1).verdict == PROMOTE
    third = world.decided(looks=3)
    assert third.verdict == HOLD
    assert third.reason.startswith("not shown to be better on next_item")


def test_too_few_users_are_told_how_many_would_decide() -> None:
    decided = World(users=40, gain=0.005).decided()

    assert decided.verdict == INSUFFICIENT_DATA
    assert decided.reason.startswith(
        "40 users act in the next_item window; at least 100 are needed; by their spread about "
    )
    assert "would decide" in decided.reason


def test_a_stale_data_set_is_held() -> None:
    decided = World().decided(age_days=31.0, policy=POLICY.model_copy(update={"max_age_days": 30.0}))

    assert decided.verdict == HOLD
    assert decided.reason.startswith("stale: the newest event is 31.0 days old")
