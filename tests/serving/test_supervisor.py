"""The supervisor waits where TorchServe may recover, repairs the rest, and pauses longer after each failed repair."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from config.command import UserError
from serving.deployment import rollout_stage
from serving.settings import ServerSettings
from serving.supervisor import CHECK_SECONDS, LONGEST_PAUSE, State, Supervisor, check, repair
from serving.torchserve import server
from serving.torchserve.client import ServerError, TorchServe

SERVING, NOT_RUNNING, UNRESPONSIVE, NO_MODEL, NO_WORKER, ROLLBACK_PENDING = State


class FakeServer:
    """A server in one state, its supervisor, and a clock that only the test moves."""

    def __init__(self) -> None:
        self.state, self.stopped, self.now = SERVING, False, 0.0
        self.repair_fails, self.repair_helps = False, False
        self.repairs: list[tuple[State, bool]] = []
        self.log: list[str] = []
        self.supervisor = Supervisor(
            lambda: self.state, self.repair, lambda: self.stopped, self.log.append, lambda: self.now
        )

    def repair(self, state: State, again: bool) -> None:
        self.repairs.append((state, again))
        if self.repair_fails:
            raise UserError("no way")
        self.state = SERVING if self.repair_helps else state

    def step(self) -> float | None:
        pause = self.supervisor.step()
        self.now += pause or 0
        return pause


@pytest.fixture
def fake() -> FakeServer:
    return FakeServer()


def test_a_serving_server_is_left_alone(fake: FakeServer) -> None:
    assert [fake.step() for _ in range(3)] == [CHECK_SECONDS] * 3
    assert (fake.repairs, fake.log) == ([], ["TorchServe is serving"])


@pytest.mark.parametrize("state", [NOT_RUNNING, NO_MODEL, ROLLBACK_PENDING])
def test_a_state_that_cannot_recover_is_repaired_at_once(fake: FakeServer, state: State) -> None:
    fake.step()
    fake.state = state
    fake.step()
    assert fake.repairs == [(state, False)]


@pytest.mark.parametrize("state", [UNRESPONSIVE, NO_WORKER])
def test_a_state_that_may_recover_is_given_time(fake: FakeServer, state: State) -> None:
    fake.step()
    for _ in range(3):  # each time it recovers in 8 s
        fake.state = state
        for _ in range(4):
            fake.step()
        fake.state = SERVING
        fake.step()
    assert not fake.repairs
    fake.state = state
    while not fake.repairs:
        fake.step()
    assert fake.now >= 3 * 10 + 15


def test_failed_repairs_are_logged_and_come_at_growing_intervals(fake: FakeServer) -> None:
    fake.state, fake.repair_fails = NOT_RUNNING, True
    pauses = [fake.step() for _ in range(8)]
    assert pauses == [2, 4, 8, 16, 32, LONGEST_PAUSE, LONGEST_PAUSE, LONGEST_PAUSE]
    assert fake.repairs == [(NOT_RUNNING, False)] + [(NOT_RUNNING, True)] * 7
    assert fake.log[:2] == ["TorchServe is not running", "error: no way"]
    fake.state, fake.repair_fails = SERVING, False
    fake.step()
    fake.state = NOT_RUNNING
    assert fake.step() == CHECK_SECONDS, "the next failure is a new one"


def test_after_a_repair_that_helped_the_intervals_start_again(fake: FakeServer) -> None:
    fake.repair_helps = True
    fake.step()
    for _ in range(3):
        fake.state = NOT_RUNNING
        assert fake.step() == CHECK_SECONDS
    assert fake.repairs == [(NOT_RUNNING, False)] * 3


def test_no_error_ends_the_supervisor(fake: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(fake.supervisor, "_repair", broken)
    fake.state = NOT_RUNNING
    assert [fake.step(), fake.step()] == [2, 4]
    monkeypatch.setattr(fake.supervisor, "_check", broken)
    assert fake.step() == 8
    assert "No space left" in fake.log[-1]


def test_the_supervisor_ends_where_somebody_stopped_the_server(fake: FakeServer) -> None:
    fake.step()
    fake.state, fake.stopped = NOT_RUNNING, True
    assert fake.step() is None
    assert not fake.repairs


def test_a_server_that_never_ran_is_started(fake: FakeServer) -> None:
    fake.state, fake.stopped = NOT_RUNNING, True
    assert fake.step() == CHECK_SECONDS
    assert fake.repairs == [(NOT_RUNNING, False)]


@pytest.fixture
def done(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The steps of a repair, which are recorded instead of done."""
    done: list[str] = []
    monkeypatch.setattr(server, "start", lambda _: done.append("start"))
    monkeypatch.setattr(server, "stop", lambda _: done.append("stop"))

    def run(command: list[str], **_: object) -> subprocess.CompletedProcess:
        done.append(command[2])
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(subprocess, "run", run)
    return done


@pytest.mark.parametrize(
    ("state", "again", "expected"),
    [
        (NOT_RUNNING, False, ["start"]),
        (NOT_RUNNING, True, ["start"]),
        (UNRESPONSIVE, False, ["stop", "start"]),
        (NO_WORKER, False, ["stop", "start"]),
        (NO_WORKER, True, ["serving.deploy"]),
        (NO_MODEL, False, ["serving.deploy"]),
        (ROLLBACK_PENDING, False, ["serving.deploy"]),
    ],
)
def test_each_state_has_its_repair(
    settings: ServerSettings, done: list[str], state: State, again: bool, expected: list[str]
) -> None:
    repair(state, again, "tiny", settings)
    assert done == expected


def test_a_failed_deployment_is_an_error(settings: ServerSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "run", lambda command, **_: subprocess.CompletedProcess(command, 1))
    with pytest.raises(UserError):
        repair(NO_MODEL, False, "tiny", settings)


def version(default: bool, ready: int) -> object:
    return type("Live", (), {"default": default, "ready": ready})


@pytest.mark.parametrize(
    ("described", "expected"),
    [
        ({"1.0": version(True, 1), "2.0": version(False, 0)}, SERVING),
        ({"1.0": version(True, 0), "2.0": version(False, 1)}, NO_WORKER),
        ({}, NO_MODEL),
        (ServerError("nothing came"), UNRESPONSIVE),
    ],
)
def test_a_check_requires_a_worker_of_the_default_version(
    settings: ServerSettings, monkeypatch: pytest.MonkeyPatch, described: dict | ServerError, expected: State
) -> None:
    def describe(*_: object) -> dict:
        if isinstance(described, ServerError):
            raise described
        return described

    assert check("tiny", settings) is NOT_RUNNING
    found: Callable = lambda _: object()  # noqa: E731
    monkeypatch.setattr(server, "find", found)
    monkeypatch.setattr(TorchServe, "describe", describe)
    assert check("tiny", settings) is expected


def test_a_rollback_that_the_edge_ordered_is_pending_until_it_is_deployed(
    settings: ServerSettings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    here = settings.model_copy(update={"server_home": tmp_path, "state": tmp_path / "state"})
    monkeypatch.setattr(server, "find", lambda _: object())
    monkeypatch.setattr(TorchServe, "describe", lambda *_: {"1.0": version(True, 1)})
    ends = {
        "dataset": "tiny",
        "version": "2.0",
        "previous": "1.0",
        "since": rollout_stage.utc_now(),
        "reason": "errors",
        "by": "edge@h",
    }
    serves = rollout_stage.RolloutStage(phase=rollout_stage.Phase.SERVES, **ends)
    rollout_stage.replace_stage(rollout_stage.stage_path("tiny", here), None, serves)
    assert check("tiny", here) is SERVING
    rollout_stage.replace_stage(
        rollout_stage.stage_path("tiny", here),
        serves,
        serves.model_copy(update={"phase": rollout_stage.Phase.ROLLBACK}),
    )
    assert check("tiny", here) is ROLLBACK_PENDING
