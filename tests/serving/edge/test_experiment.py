"""Buckets: the same user always in the same arm, and arms as large as declared."""

from __future__ import annotations

import math

import pytest
from fake_torchserve import FakeTorchServe
from hypothesis import given, settings
from hypothesis import strategies as st
from running import Start, wait_until

from serving.edge.experiment import NOBODY, Experiment
from serving.edge.settings import Arm

USERS = [f"user-{number}" for number in range(5_000)]
shares = st.lists(st.integers(1, 20), min_size=1, max_size=5).map(
    lambda parts: {f"arm-{place}": Arm(share=part / sum(parts)) for place, part in enumerate(parts)}
)


@settings(deadline=None)
@given(name=st.text(min_size=1), arms=shares, user=st.text())
def test_a_user_stays_in_an_arm_that_exists(name: str, arms: dict[str, Arm], user: str) -> None:
    bucket = Experiment(name, arms).bucket(user)
    assert bucket.arm in arms
    assert Experiment(name, dict(arms)).bucket(user) == bucket


@settings(max_examples=20, deadline=None)
@given(name=st.text(min_size=1), arms=shares)
def test_arms_hold_their_share_of_the_users(name: str, arms: dict[str, Arm]) -> None:
    experiment = Experiment(name, arms)
    held = [experiment.bucket(user).arm for user in USERS]
    for arm, about in arms.items():
        deviation = math.sqrt(about.share * (1 - about.share) * len(USERS))  # of a binomial count
        assert abs(held.count(arm) - about.share * len(USERS)) <= 5.5 * deviation


@settings(deadline=None)
@given(user=st.text(), small=st.floats(0.01, 0.5), growth=st.floats(0, 0.5))
def test_a_first_arm_that_grows_keeps_its_users(user: str, small: float, growth: float) -> None:
    before = Experiment("new-model", {"canary": Arm(share=small), "rest": Arm(share=1 - small)})
    large = small + growth
    after = Experiment("new-model", {"canary": Arm(share=large), "rest": Arm(share=1 - large)})
    if before.bucket(user).arm == "canary":
        assert after.bucket(user).arm == "canary"


def test_two_experiments_split_users_independently() -> None:
    arms = {"a": Arm(share=0.5), "b": Arm(share=0.5)}
    one, two = Experiment("one", arms), Experiment("two", arms)
    both = sum(one.bucket(user).arm == two.bucket(user).arm for user in USERS)
    assert abs(both - len(USERS) / 2) < 5.5 * math.sqrt(len(USERS)) / 2


def test_the_split_is_the_same_on_every_machine_and_in_every_version() -> None:
    # Written down once: a change of the hash would move every user of a running experiment.
    experiment = Experiment("fixed", {"a": Arm(share=0.25), "b": Arm(share=0.75)})
    assert "".join(experiment.bucket(f"user-{n}").arm for n in range(24)) == "bbbbbbababbabbbabbabbaab"


def test_without_arms_nobody_is_in_an_experiment() -> None:
    assert Experiment("", {}).bucket("ann") == NOBODY


@pytest.fixture
def canary(start: Start, torchserve: FakeTorchServe):
    torchserve.loaded = {"1.0", "2.0"}
    arms = {"canary": Arm(share=0.3, version="2.0"), "rest": Arm(share=0.7)}
    return start(experiment="new-model", arms=arms)


def test_the_canary_is_answered_by_its_version_and_the_assignment_is_logged(canary) -> None:
    versions = {"canary": "2.0", "rest": "1.0"}
    told = {}
    for number in range(30):
        user = f"user-{number}"
        answer = canary.answer({"user_id": user, "request_id": user})
        assert answer["experiment"] == "new-model"
        assert answer["model_version"] == versions[answer["bucket"]]
        told[user] = answer["bucket"]
    assert set(told.values()) == {"canary", "rest"}
    lines = canary.served()
    assert {line["request_id"]: line["bucket"] for line in lines} == told
    assert {line["experiment"] for line in lines} == {"new-model"}


def test_a_canary_that_is_not_loaded_leaves_its_users_to_the_default(canary, torchserve: FakeTorchServe) -> None:
    torchserve.loaded = {"1.0"}
    users = [f"user-{number}" for number in range(20)]
    answers = [canary.answer({"user_id": user}) for user in users]
    assert {answer["rung"] for answer in answers} == {"personalised"}
    assert {answer["model_version"] for answer in answers} == {"1.0"}
    missed = [path for path, _ in torchserve.asked if path.endswith("/2.0")]
    assert len(missed) == 1  # asked once, then left alone for a while
    assert {canary.answer({"user_id": user})["cache"] for user in users} == {"hit"}


def test_who_is_nobody_takes_no_part(canary) -> None:
    assert canary.answer({"history": []})["bucket"] is None
    assert canary.answer({"user_id": "user-1"}, x_consent="denied")["bucket"] is None


def test_a_new_default_version_is_noticed_without_a_miss(start: Start, torchserve: FakeTorchServe) -> None:
    edge = start(popular_seconds=0.1)
    assert edge.answer({"user_id": "ann"})["model_version"] == "1.0"
    torchserve.loaded, torchserve.version = {"1.0", "2.0"}, "2.0"
    wait_until(lambda: edge.app.service.ladder.version == "2.0")
    answer = edge.answer({"user_id": "ann"})  # was kept under the version before, and is not given again
    assert (answer["model_version"], answer["cache"]) == ("2.0", "miss")
