"""A version on trial at the edge: who meets it, what is counted, what each limit does, and that nobody pays for it."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from fake_torchserve import FakeTorchServe
from running import Edge, Start, wait_until

from config.params import Rollout
from serving.deployment import deployment_log, rollback, rollout_evidence, rollout_stage
from serving.deployment.rollout_evidence import Evidence
from serving.deployment.rollout_stage import Phase, Stage

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


@pytest.fixture
def on_trial(start: Start, torchserve: FakeTorchServe, tmp_path: Path) -> Callable[..., Edge]:
    """Start an edge before two loaded versions, with the new one at a phase of its trial."""

    def begin(phase: Phase, share: float = 0.0, **settings) -> Edge:
        torchserve.loaded = {OLD, NEW}
        place = tmp_path / "rollout" / "tiny.json"
        put(place, phase, share)
        return start(rollout=place, **settings)

    return begin


def put(place: Path, phase: Phase, share: float = 0.0) -> Stage:
    """Bring the file to a phase, from whatever it says."""
    new = Stage(
        dataset="tiny",
        phase=phase,
        version=NEW,
        previous=OLD,
        since=rollout_stage.now(),
        why="a test",
        by="me@here",
        share=share,
        plan=PLAN,
    )
    assert rollout_stage.move(place, rollout_stage.read(place), new)
    return new


def enter(edge: Edge, phase: Phase, share: float = 0.0) -> None:
    new = put(edge.settings.rollout, phase, share)
    wait_until(lambda: edge.app.service.ladder.upstream.stage == new)


def ask(edge: Edge, users: int) -> list[dict]:
    return [edge.answer({"user_id": f"user-{next(numbers)}"}) for _ in range(users)]


def standing(edge: Edge) -> Stage:
    found = rollout_stage.read(edge.settings.rollout)
    assert found is not None
    return found


def seen(edge: Edge) -> Evidence:
    return rollout_evidence.total(edge.settings.rollout, standing(edge).since.isoformat())


def ask_until_rolled_back(edge: Edge, most: int) -> list[dict]:
    answers: list[dict] = []
    while standing(edge).phase is not Phase.BACK:
        assert len(answers) < most, seen(edge)
        answers += ask(edge, 5)
    return answers


def test_the_canary_is_answered_by_the_new_version_and_told_so(on_trial) -> None:
    edge = on_trial(Phase.CANARY, 0.3)
    answers = ask(edge, 60)
    versions = {"canary": NEW, "champion": OLD}
    assert {answer["experiment"] for answer in answers} == {f"rollout-{NEW}"}
    assert all(answer["model_version"] == versions[answer["bucket"]] for answer in answers)
    assert {answer["bucket"] for answer in answers} == set(versions)
    lines = {line["request_id"]: (line["bucket"], line["model_version"]) for line in edge.served()}
    assert lines == {answer["request_id"]: (answer["bucket"], answer["model_version"]) for answer in answers}


def test_users_stay_with_the_new_version_as_shares_grow(on_trial) -> None:
    edge = on_trial(Phase.CANARY, 0.2)
    users = [f"staying-{number}" for number in range(60)]

    def canary() -> set[str]:
        return {user for user in users if edge.answer({"user_id": user})["bucket"] == "canary"}

    small = canary()
    enter(edge, Phase.CANARY, 0.5)
    large = canary()
    enter(edge, Phase.SWITCH)
    assert small < large < canary() == set(users)


def test_a_healthy_version_goes_through_every_step(on_trial) -> None:
    edge = on_trial(Phase.SHADOW)
    steps = []
    while standing(edge).tried:
        steps.append(standing(edge).share)
        wait_until(
            lambda: not ask(edge, 10) or not rollout_stage.waits_for(standing(edge), seen(edge), rollout_stage.now()),
            30,
        )
        before = standing(edge)
        assert rollout_stage.move(edge.settings.rollout, before, rollout_stage.following(before, rollout_stage.now()))
        after = standing(edge)
        wait_until(lambda after=after: edge.app.service.ladder.upstream.stage == after)
    assert steps == [0.0, 0.3, 0.6]
    assert standing(edge).phase is Phase.SWITCH
    assert edge.count("tidegate_edge_rollbacks_total") == 0


@pytest.mark.parametrize(
    ("fault", "phase", "share", "told"),
    [
        ("failing", Phase.CANARY, 0.3, "errors"),
        ("failing", Phase.SHADOW, 0.0, "errors"),
        ("slow", Phase.CANARY, 0.3, "p99"),
        ("strange", Phase.SHADOW, 0.0, "overlap"),
        ("strange", Phase.CANARY, 0.3, "overlap"),
    ],
)
def test_each_limit_rolls_back_by_itself(
    on_trial, torchserve: FakeTorchServe, fault: str, phase: Phase, share: float, told: str
) -> None:
    torchserve.faults = {NEW: fault}
    edge = on_trial(phase, share)
    answers = ask_until_rolled_back(edge, 600)
    assert {answer["rung"] for answer in answers} == {"personalised"}  # nobody got less for it
    assert standing(edge).why.startswith(told)
    wait_until(lambda: not edge.app.service.ladder.upstream.running, 1)
    after = ask(edge, 20)
    assert {(answer["model_version"], answer["bucket"]) for answer in after} == {(OLD, None)}
    (_, last) = deployment_log.entries(edge.settings.rollout.with_suffix(rollout_stage.HISTORY), "tiny")
    assert (last.what, last.before, last.after, last.why) == ("rollback", NEW, OLD, standing(edge).why)
    assert edge.count("tidegate_edge_rollbacks_total") == 1


def test_a_canary_that_fails_rests_alone(on_trial, torchserve: FakeTorchServe) -> None:
    torchserve.faults = {NEW: "failing"}
    edge = on_trial(Phase.CANARY, 0.6, breaker_failures=2)
    ask_until_rolled_back(edge, 600)
    assert edge.count("tidegate_edge_breaker_opened_total", part="candidate") >= 1
    assert edge.count("tidegate_edge_breaker_opened_total", part="torchserve") == 0


def test_a_rollback_by_hand_reaches_the_canary_within_a_second(on_trial) -> None:
    edge = on_trial(Phase.CANARY, 0.6)
    users = [answer["request_id"] for answer in ask(edge, 10)]
    assert users
    rollback.order(edge.settings.rollout, "by hand", "me@here")
    wait_until(lambda: {answer["model_version"] for answer in ask(edge, 5)} == {OLD}, 1)


def test_a_shadowed_request_delays_nobody_and_a_full_queue_drops(on_trial, torchserve: FakeTorchServe) -> None:
    torchserve.faults = {NEW: "slow"}
    edge = on_trial(Phase.SHADOW, shadow_queue=2)
    told = ask(edge, 40)
    assert {answer["model_version"] for answer in told} == {OLD}
    served = [line["milliseconds"] for line in edge.served()]
    assert sorted(served)[len(served) // 2] < 50  # the new version takes 100
    count = lambda outcome: edge.count("tidegate_edge_shadow_total", outcome=outcome)  # noqa: E731
    assert count("dropped") >= 10
    wait_until(lambda: count("compared") + count("dropped") >= 39)
    assert count("failed") == 0


def test_a_version_on_trial_that_is_gone_leaves_its_users_to_the_old_one(on_trial, torchserve: FakeTorchServe) -> None:
    edge = on_trial(Phase.CANARY, 0.6)
    torchserve.loaded = {OLD}
    answers = ask(edge, 20)
    assert {(answer["model_version"], answer["rung"]) for answer in answers} == {(OLD, "personalised")}
    assert standing(edge).phase is Phase.CANARY


def test_a_stage_that_cannot_be_read_leaves_everything_as_it_was(on_trial, caplog) -> None:
    edge = on_trial(Phase.CANARY, 0.6)
    before = edge.app.service.ladder.upstream.stage
    edge.settings.rollout.write_text(json.dumps({"phase": "nonsense"}))
    wait_until(lambda: "is no stage of a rollout" in caplog.text)
    assert edge.app.service.ladder.upstream.stage == before
    assert {answer["bucket"] for answer in ask(edge, 20)} == {"canary", "champion"}
