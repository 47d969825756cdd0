"""A version on trial: which users it answers, what is counted, what each limit does; and the arms of experiments."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
from fake_torchserve import FakeTorchServe
from hypothesis import given, settings
from hypothesis import strategies as st
from running import Edge, Start, wait_until

from config.params import Rollout
from serving.deployment import rollout_evidence, rollout_stage
from serving.deployment.rollout_evidence import RolloutEvidence
from serving.deployment.rollout_stage import Phase, RolloutStage
from serving.edge.rollout_trial import NO_BUCKET, ArmSplit
from serving.edge.settings import Arm

pytestmark = pytest.mark.slow  # each test takes little, all of them many seconds

OLD, NEW = "1.0", "2.0"
PLAN = Rollout.model_validate(
    {
        "shadow_share": 0.999,
        "shadow_seconds": 0,
        "shadow_requests": 20,
        "canary": [0.3, 0.6],
        "bake_seconds": 0,
        "min_requests": 40,
        "limits": {"alpha": 0.05, "error_excess": 0.01, "p99_ratio": 1.5, "overlap": 0.5},
    }
)
numbers = itertools.count()  # of users, so that no answer is one that was kept
USERS = [f"user-{number}" for number in range(5_000)]
shares = st.lists(st.integers(1, 20), min_size=1, max_size=5).map(
    lambda parts: {f"arm-{place}": Arm(share=part / sum(parts)) for place, part in enumerate(parts)}
)


@pytest.fixture
def on_trial(start: Start, torchserve: FakeTorchServe, tmp_path: Path) -> Callable[..., Edge]:
    """Start an edge before two loaded versions, with the new one at a phase of its trial."""

    def begin(phase: Phase, share: float = 0.0, **settings) -> Edge:
        torchserve.loaded = {OLD, NEW}
        place = tmp_path / "rollout" / "tiny.json"
        put(place, phase, share)
        return start(rollout=place, **settings)

    return begin


def put(place: Path, phase: Phase, share: float = 0.0) -> RolloutStage:
    """Bring the file to a phase, from whatever it says."""
    new = RolloutStage(
        dataset="tiny",
        phase=phase,
        version=NEW,
        previous=OLD,
        since=rollout_stage.utc_now(),
        reason="a test",
        by="me@here",
        share=share,
        plan=PLAN,
    )
    assert rollout_stage.replace_stage(place, rollout_stage.read_stage(place), new)
    return new


def enter(edge: Edge, phase: Phase, share: float = 0.0) -> None:
    new = put(edge.settings.rollout, phase, share)
    wait_until(lambda: edge.service.trial.stage == new)


def ask(edge: Edge, users: int) -> list[dict]:
    return [edge.answer({"user_id": f"user-{next(numbers)}"}) for _ in range(users)]


def standing(edge: Edge) -> RolloutStage:
    found = rollout_stage.read_stage(edge.settings.rollout)
    assert found is not None
    return found


def seen(edge: Edge) -> RolloutEvidence:
    return rollout_evidence.total_evidence(edge.settings.rollout, standing(edge).since.isoformat())


def ask_until_rolled_back(edge: Edge, most: int) -> list[dict]:
    answers: list[dict] = []
    while standing(edge).phase is not Phase.ROLLBACK:
        assert len(answers) < most, seen(edge)
        answers += ask(edge, 5)
    return answers


def test_users_of_the_canary_are_answered_by_the_new_version_and_see_it(on_trial) -> None:
    edge = on_trial(Phase.CANARY, 0.3)
    answers = ask(edge, 60)
    versions = {"canary": NEW, "champion": OLD}
    assert {answer["experiment"] for answer in answers} == {f"rollout-{NEW}"}
    assert all(answer["model_version"] == versions[answer["bucket"]] for answer in answers)
    assert {answer["bucket"] for answer in answers} == set(versions)
    lines = {line["request_id"]: (line["bucket"], line["model_version"]) for line in edge.served()}
    assert lines == {answer["request_id"]: (answer["bucket"], answer["model_version"]) for answer in answers}


def test_a_cached_answer_of_a_version_that_was_rolled_back_is_not_given_again(
    on_trial, torchserve: FakeTorchServe
) -> None:
    edge = on_trial(Phase.SERVES)
    torchserve.version = NEW
    bad = [edge.answer({"user_id": "ann"}) for _ in range(2)]
    assert [(answer["model_version"], answer["cache"]) for answer in bad] == [(NEW, "miss"), (NEW, "hit")]
    torchserve.version = OLD
    enter(edge, Phase.ROLLBACK)
    assert edge.answer({"user_id": "ann"})["model_version"] == OLD


def test_the_last_answer_of_a_version_that_was_rolled_back_is_no_fallback(on_trial, torchserve: FakeTorchServe) -> None:
    edge = on_trial(Phase.SERVES, cache_seconds=0)
    torchserve.version = NEW
    edge.answer({"user_id": "ann"})
    torchserve.mode = "failing"
    assert edge.answer({"user_id": "ann"})["source"] == "cached"
    enter(edge, Phase.ROLLBACK)
    assert edge.answer({"user_id": "ann"})["source"] == "popular"


def test_users_stay_with_the_new_version_as_its_share_grows(on_trial) -> None:
    edge = on_trial(Phase.CANARY, 0.2)
    users = [f"staying-{number}" for number in range(60)]

    def canary() -> set[str]:
        return {user for user in users if edge.answer({"user_id": user})["bucket"] == "canary"}

    small = canary()
    enter(edge, Phase.CANARY, 0.5)
    large = canary()
    enter(edge, Phase.SWITCH)
    assert small < large < canary() == set(users)


def test_a_healthy_version_passes_every_step(on_trial) -> None:
    edge = on_trial(Phase.SHADOW)
    steps = []
    while standing(edge).on_trial:
        steps.append(standing(edge).share)
        wait_until(
            lambda: (
                not ask(edge, 10)
                or not rollout_stage.missing_for_next_step(standing(edge), seen(edge), rollout_stage.utc_now())
            ),
            30,
        )
        before = standing(edge)
        assert rollout_stage.replace_stage(
            edge.settings.rollout, before, rollout_stage.next_stage(before, rollout_stage.utc_now())
        )
        after = standing(edge)
        wait_until(lambda after=after: edge.service.trial.stage == after)
    assert steps == [0.0, 0.3, 0.6]
    assert standing(edge).phase is Phase.SWITCH
    assert edge.count("tidegate_edge_rollbacks_total") == 0


@pytest.mark.parametrize(
    ("fault", "phase", "share", "limit"),
    [
        ("failing", Phase.CANARY, 0.3, "errors"),
        ("failing", Phase.SHADOW, 0.0, "errors"),
        ("slow", Phase.CANARY, 0.3, "p99"),
        ("strange", Phase.SHADOW, 0.0, "overlap"),
        ("strange", Phase.CANARY, 0.3, "overlap"),
    ],
)
def test_each_limit_triggers_a_rollback(
    on_trial, torchserve: FakeTorchServe, fault: str, phase: Phase, share: float, limit: str
) -> None:
    torchserve.faults = {NEW: fault}
    edge = on_trial(phase, share)
    answers = ask_until_rolled_back(edge, 600)
    assert {answer["source"] for answer in answers} == {"personalized"}  # the rollback costs nobody
    assert standing(edge).reason.startswith(limit)
    wait_until(lambda: not edge.service.trial.is_running, 1)
    after = ask(edge, 20)
    assert {(answer["model_version"], answer["bucket"]) for answer in after} == {(OLD, None)}
    (_, last) = rollout_stage.read_events(edge.settings.rollout)
    assert (last.event, last.before, last.after, last.reason) == ("rollback", NEW, OLD, standing(edge).reason)
    assert edge.count("tidegate_edge_rollbacks_total") == 1


def canary_user(edge: Edge) -> str:
    return next(user for user in USERS if edge.service.trial.bucket(user).arm == "canary")


def test_short_deadlines_of_clients_are_no_errors_of_a_version(on_trial, torchserve: FakeTorchServe) -> None:
    torchserve.delay = 0.1
    edge = on_trial(Phase.CANARY, 0.3, deadline_ms=800)
    user = canary_user(edge)
    for number in range(10):
        answer = edge.answer({"user_id": user, "k": 5 + number}, x_deadline_ms="60")
        assert answer["source"] == "popular"
    trial = edge.service.trial
    assert (trial.evidence.candidate.calls, trial.evidence.champion.calls) == (0, 0)
    assert edge.answer({"user_id": user, "k": 4})["model_version"] == NEW
    assert (trial.evidence.candidate.calls, trial.evidence.candidate.errors) == (1, 0)


def test_calls_that_an_open_circuit_prevents_are_no_errors_of_a_version(on_trial, torchserve: FakeTorchServe) -> None:
    torchserve.faults = {NEW: "failing"}
    edge = on_trial(Phase.CANARY, 0.3, breaker_failures=2, breaker_seconds=60)
    user = canary_user(edge)
    for number in range(10):
        assert edge.answer({"user_id": user, "k": 5 + number})["model_version"] == OLD
    counts = edge.service.trial.evidence.candidate
    assert (counts.calls, counts.errors) == (2, 2)


def test_a_key_for_one_user_counts_once_in_a_stage(on_trial) -> None:
    edge = on_trial(Phase.CANARY, 0.3)
    trial, user = edge.service.trial, canary_user(edge)
    key = edge.key_of(user)
    for number in range(5):
        assert edge.answer({"user_id": user, "k": 5 + number}, key=key)["cache"] == "miss"
    assert trial.evidence.candidate.calls == 1
    enter(edge, Phase.CANARY, 0.6)
    edge.answer({"user_id": user, "k": 20}, key=key)
    edge.answer({"user_id": user, "k": 21})  # a server key speaks for many users
    assert trial.evidence.candidate.calls == 2


def test_a_key_for_one_user_gives_one_shadow_request_in_a_stage(on_trial) -> None:
    edge = on_trial(Phase.SHADOW)
    key = edge.key_of("ann")
    compared = lambda: edge.service.trial.evidence.compared  # noqa: E731
    for number in range(10):
        edge.answer({"user_id": "ann", "k": 5 + number}, key=key)
    ask(edge, 11)
    wait_until(lambda: compared() >= 10)
    assert compared() <= 12


def test_a_request_that_no_version_can_answer_is_no_error_of_one(on_trial, torchserve: FakeTorchServe) -> None:
    edge = on_trial(Phase.SWITCH)
    for number in range(5):
        assert edge.answer({"user_id": "who breaks the model", "k": 5 + number})["source"] == "popular"
    assert edge.service.trial.evidence.candidate.errors == 0


def test_a_failing_candidate_opens_its_own_circuit_only(on_trial, torchserve: FakeTorchServe) -> None:
    torchserve.faults = {NEW: "failing"}
    edge = on_trial(Phase.CANARY, 0.6, breaker_failures=2)
    ask_until_rolled_back(edge, 600)
    assert edge.count("tidegate_edge_breaker_opened_total", part="candidate") >= 1
    assert edge.count("tidegate_edge_breaker_opened_total", part="torchserve") == 0


def test_a_manual_rollback_reaches_the_canary(on_trial) -> None:
    edge = on_trial(Phase.CANARY, 0.6)
    users = [answer["request_id"] for answer in ask(edge, 10)]
    assert users
    rollout_stage.order_rollback(edge.settings.rollout, "by hand", "me@here")
    wait_until(lambda: {answer["model_version"] for answer in ask(edge, 5)} == {OLD})


def test_a_rollback_on_a_full_disk_holds_in_the_process_until_it_can_be_written(
    on_trial, torchserve: FakeTorchServe, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    torchserve.faults = {NEW: "failing"}
    edge = on_trial(Phase.CANARY, 0.6)
    with monkeypatch.context() as patch:
        patch.setattr(rollout_stage.files, "write_bytes", full)
        wait_until(lambda: ask(edge, 5) and not edge.service.trial.is_running, 30)
        assert {(answer["model_version"], answer["bucket"]) for answer in ask(edge, 20)} == {(OLD, None)}
        assert standing(edge).phase is Phase.CANARY
    wait_until(lambda: standing(edge).phase is Phase.ROLLBACK)
    assert standing(edge).reason.startswith("errors")
    assert edge.count("tidegate_edge_rollbacks_total") == 1


def test_a_switch_without_a_trial_is_left_to_torchserve(on_trial) -> None:
    edge = on_trial(Phase.SHADOW)
    before = standing(edge)
    switch = before.model_copy(update={"phase": Phase.SWITCH, "plan": None})
    assert rollout_stage.replace_stage(edge.settings.rollout, before, switch)
    wait_until(lambda: edge.service.trial.stage == switch)
    assert {(answer["model_version"], answer["bucket"]) for answer in ask(edge, 10)} == {(OLD, None)}


def test_shadow_requests_delay_nobody_and_a_full_queue_drops_them(on_trial, torchserve: FakeTorchServe) -> None:
    torchserve.faults = {NEW: "slow"}
    edge = on_trial(Phase.SHADOW, shadow_queue=2)
    answers = ask(edge, 40)
    assert {answer["model_version"] for answer in answers} == {OLD}
    count = lambda outcome: edge.count("tidegate_edge_shadow_total", outcome=outcome)  # noqa: E731
    assert count("dropped") >= 10  # an answer that waited for its shadow request would leave room for the next
    wait_until(lambda: count("compared") + count("dropped") >= 39)
    assert count("failed") == 0


def test_users_of_a_candidate_that_is_gone_get_the_champion(on_trial, torchserve: FakeTorchServe) -> None:
    edge = on_trial(Phase.CANARY, 0.6)
    torchserve.loaded = {OLD}
    answers = ask(edge, 20)
    assert {(answer["model_version"], answer["source"]) for answer in answers} == {(OLD, "personalized")}
    assert standing(edge).phase is Phase.CANARY


def test_a_stage_that_cannot_be_read_changes_nothing(on_trial, caplog) -> None:
    edge = on_trial(Phase.CANARY, 0.6)
    before = edge.service.trial.stage
    edge.settings.rollout.write_text(json.dumps({"phase": "nonsense"}), encoding="utf-8")
    wait_until(lambda: "is not the stage of a rollout" in caplog.text)
    assert edge.service.trial.stage == before
    assert {answer["bucket"] for answer in ask(edge, 20)} == {"canary", "champion"}


@settings(deadline=None)
@given(name=st.text(min_size=1), arms=shares, user=st.text())
def test_a_user_stays_in_an_arm_that_exists(name: str, arms: dict[str, Arm], user: str) -> None:
    bucket = ArmSplit(name, arms).bucket(user)
    assert bucket.arm in arms
    assert ArmSplit(name, dict(arms)).bucket(user) == bucket


@settings(max_examples=20, deadline=None)
@given(name=st.text(min_size=1), arms=shares)
def test_arms_hold_their_share_of_the_users(name: str, arms: dict[str, Arm]) -> None:
    split = ArmSplit(name, arms)
    held = [split.bucket(user).arm for user in USERS]
    for arm, about in arms.items():
        deviation = math.sqrt(about.share * (1 - about.share) * len(USERS))  # of a binomial count
        assert abs(held.count(arm) - about.share * len(USERS)) <= 5.5 * deviation


@settings(deadline=None)
@given(user=st.text(), small=st.floats(0.01, 0.5), growth=st.floats(0, 0.5))
def test_a_first_arm_that_grows_keeps_its_users(user: str, small: float, growth: float) -> None:
    before = ArmSplit("new-model", {"canary": Arm(share=small), "rest": Arm(share=1 - small)})
    large = small + growth
    after = ArmSplit("new-model", {"canary": Arm(share=large), "rest": Arm(share=1 - large)})
    if before.bucket(user).arm == "canary":
        assert after.bucket(user).arm == "canary"


def test_two_experiments_split_users_independently() -> None:
    arms = {"a": Arm(share=0.5), "b": Arm(share=0.5)}
    one, two = ArmSplit("one", arms), ArmSplit("two", arms)
    both = sum(one.bucket(user).arm == two.bucket(user).arm for user in USERS)
    assert abs(both - len(USERS) / 2) < 5.5 * math.sqrt(len(USERS)) / 2


def test_the_split_never_changes() -> None:
    # Written down once: a change of the hash would move every user of a running experiment.
    experiment = ArmSplit("fixed", {"a": Arm(share=0.25), "b": Arm(share=0.75)})
    assert "".join(experiment.bucket(f"user-{n}").arm for n in range(24)) == "bbbbbbababbabbbabbabbaab"


def test_without_arms_no_user_is_in_an_experiment() -> None:
    assert ArmSplit("", {}).bucket("ann") == NO_BUCKET


@pytest.fixture
def experiment(start: Start, torchserve: FakeTorchServe):
    torchserve.loaded = {"1.0", "2.0"}
    arms = {"canary": Arm(share=0.3, version="2.0"), "rest": Arm(share=0.7)}
    return start(experiment="new-model", arms=arms)


def test_each_arm_is_answered_by_its_version_and_the_arm_is_logged(experiment) -> None:
    versions = {"canary": "2.0", "rest": "1.0"}
    arms = {}
    for number in range(30):
        user = f"user-{number}"
        answer = experiment.answer({"user_id": user, "request_id": user})
        assert answer["experiment"] == "new-model"
        assert answer["model_version"] == versions[answer["bucket"]]
        arms[user] = answer["bucket"]
    assert set(arms.values()) == {"canary", "rest"}
    lines = experiment.served()
    assert {line["request_id"]: line["bucket"] for line in lines} == arms
    assert {line["experiment"] for line in lines} == {"new-model"}


def test_users_of_a_version_that_is_not_loaded_get_the_default_one(experiment, torchserve: FakeTorchServe) -> None:
    torchserve.loaded = {"1.0"}
    users = [f"user-{number}" for number in range(20)]
    answers = [experiment.answer({"user_id": user}) for user in users]
    assert {answer["source"] for answer in answers} == {"personalized"}
    assert {answer["model_version"] for answer in answers} == {"1.0"}
    missed = [path for path, _ in torchserve.requests if path.endswith("/2.0")]
    assert len(missed) == 1  # asked once, then not for a while
    assert {experiment.answer({"user_id": user})["cache"] for user in users} == {"hit"}


def test_a_request_without_a_user_or_consent_is_in_no_experiment(experiment) -> None:
    assert experiment.answer({"history": []})["bucket"] is None
    assert experiment.answer({"user_id": "user-1"}, x_consent="denied")["bucket"] is None


def test_a_new_default_version_makes_cached_answers_invalid(start: Start, torchserve: FakeTorchServe) -> None:
    edge = start(popular_seconds=0.1)
    assert edge.answer({"user_id": "ann"})["model_version"] == "1.0"
    torchserve.loaded, torchserve.version = {"1.0", "2.0"}, "2.0"
    wait_until(lambda: edge.service.pipeline.version == "2.0")
    answer = edge.answer({"user_id": "ann"})  # cached under the version before
    assert (answer["model_version"], answer["cache"]) == ("2.0", "miss")
