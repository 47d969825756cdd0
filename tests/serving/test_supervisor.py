"""The supervisor waits where TorchServe may recover, repairs the rest, and pauses longer after each failed repair."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
from rollout_stages import make_stage

from config.command import UserError
from serving.deployment import rollout_stage
from serving.deployment.restore import RestoreError
from serving.deployment.rollout_stage import Phase
from serving.settings import ServerSettings
from serving.supervisor import (
    CHECK_SECONDS,
    LONGEST_PAUSE,
    RollbackRecorder,
    State,
    Supervisor,
    check,
    ordered_rollback,
    repair,
)
from serving.torchserve import server
from serving.torchserve.client import ServerError, TorchServe

SERVING, NOT_RUNNING, UNRESPONSIVE, NO_MODEL, NO_WORKER, WRONG_VERSION = State


class FakeServer:
    """A server in one state, its supervisor, and a clock that only the test moves."""

    def __init__(self) -> None:
        self.state, self.stopped, self.now = SERVING, False, 0.0
        self.repair_fails, self.repair_helps = False, False
        self.repairs: list[tuple[State, bool]] = []
        self.times: list[float] = []
        self.log: list[str] = []
        self.supervisor = Supervisor(
            lambda: self.state, self.repair, lambda: self.stopped, self.log.append, lambda: self.now
        )

    def repair(self, state: State, again: bool) -> None:
        self.repairs.append((state, again))
        self.times.append(self.now)
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


@pytest.mark.parametrize("state", [NOT_RUNNING, NO_MODEL, WRONG_VERSION])
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
    while len(fake.times) < 8:
        fake.step()
    assert [later - earlier for earlier, later in pairwise(fake.times)] == [
        2,
        4,
        8,
        16,
        32,
        LONGEST_PAUSE,
        LONGEST_PAUSE,
    ]
    assert fake.repairs == [(NOT_RUNNING, False)] + [(NOT_RUNNING, True)] * 7
    assert fake.log[:2] == ["TorchServe is not running", "error: no way"]


def test_a_server_that_dies_between_two_failed_repairs_is_started_at_once(fake: FakeServer) -> None:
    fake.state = NO_MODEL  # for instance a container before its first archive
    while len(fake.times) < 7:
        fake.step()
    fake.state = NOT_RUNNING
    fake.step()
    assert fake.repairs[-1] == (NOT_RUNNING, True)
    assert fake.times[-1] == fake.times[-2] + CHECK_SECONDS


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
    assert [fake.step(), fake.step()] == [CHECK_SECONDS] * 2
    monkeypatch.setattr(fake.supervisor, "_check", broken)
    assert fake.step() == CHECK_SECONDS
    assert "No space left" in fake.log[-1]


def test_the_supervisor_ends_where_somebody_stopped_the_server(fake: FakeServer) -> None:
    fake.step()
    fake.state, fake.stopped = NOT_RUNNING, True
    assert fake.step() is None
    assert not fake.repairs


@pytest.mark.parametrize("state", [NO_MODEL, UNRESPONSIVE])
def test_the_supervisor_ends_also_if_a_repair_had_not_helped_yet(fake: FakeServer, state: State) -> None:
    fake.state = state  # for instance `make keep` without an archive
    while not fake.repairs:
        fake.step()
    fake.state = NOT_RUNNING
    fake.step()
    assert fake.repairs[-1][0] is NOT_RUNNING, "a repair that stops the server does so to start it again"
    fake.stopped = True
    assert fake.step() is None


def test_a_stop_on_purpose_is_seen_even_if_the_server_does_not_run(settings: ServerSettings, tmp_path: Path) -> None:
    here = settings.model_copy(update={"server_home": tmp_path})
    (tmp_path / "server.pid").write_text("1", encoding="ascii")  # of a server that was killed
    server.stop(here, on_purpose=False)
    assert not server.was_stopped(here)
    server.stop(here)
    assert server.was_stopped(here)


def test_a_server_that_never_ran_is_started(fake: FakeServer) -> None:
    fake.state, fake.stopped = NOT_RUNNING, True
    assert fake.step() == CHECK_SECONDS
    assert fake.repairs == [(NOT_RUNNING, False)]


@pytest.fixture
def done(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The steps of a repair, which are recorded instead of done."""
    done: list[str] = []
    monkeypatch.setattr(server, "stop", lambda _, on_purpose: done.append(f"stop {on_purpose}"))
    monkeypatch.setattr("serving.supervisor.restore", lambda *_, **options: done.append(f"restore {options}"))
    monkeypatch.setattr(subprocess, "run", None)
    monkeypatch.setattr(subprocess, "Popen", None)
    return done


@pytest.mark.parametrize("state", [state for state in State if state is not SERVING])
@pytest.mark.parametrize("again", [False, True])
def test_every_repair_restores_what_served_and_starts_no_deployment(
    settings: ServerSettings, done: list[str], state: State, again: bool
) -> None:
    repair(state, again, "tiny", settings)
    stops = state is UNRESPONSIVE or (state is NO_WORKER and not again)
    assert done == ["stop False"] * stops + ["restore {'end_with_parent': True}"]


def test_a_failed_repair_is_an_error(settings: ServerSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object, **__: object) -> str:
        raise RestoreError("no archive")

    monkeypatch.setattr("serving.supervisor.restore", fails)
    with pytest.raises(UserError, match="no archive"):
        repair(NO_MODEL, False, "tiny", settings)


def test_a_rollback_is_recorded_by_a_process_of_its_own_at_growing_intervals(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[float] = []
    now, pending, running = 0.0, True, False

    class Process:
        def __init__(self, command: list[str], **_: object) -> None:
            assert command[-5:] == ["-m", "serving.deploy", "--settle", "--dataset", "tiny"]
            started.append(now)

        def poll(self) -> int | None:
            return None if running else 1

    monkeypatch.setattr(subprocess, "Popen", Process)
    recorder = RollbackRecorder("tiny", lambda: pending, lambda: now)
    for second in range(200):
        now = float(second)
        recorder.step()
    assert [later - earlier for earlier, later in pairwise(started)][:6] == [4, 8, 16, 32, LONGEST_PAUSE, LONGEST_PAUSE]
    pending = False
    recorder.step()
    pending = True  # another one
    recorder.step()
    assert started[-1] == now
    running, now = True, now + 1000
    count = len(started)
    recorder.step()
    assert len(started) == count, "one attempt at a time"


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


@pytest.mark.parametrize("phase", Phase)
def test_a_server_whose_default_is_another_version_than_the_stage_wants_is_not_serving(
    settings: ServerSettings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, phase: Phase
) -> None:
    here = settings.model_copy(update={"state": tmp_path})
    monkeypatch.setattr(server, "find", lambda _: object())
    stage = make_stage(phase, rollback_reason="it lists nonsense")
    rollout_stage.replace_stage(rollout_stage.stage_path("tiny", here), None, stage)
    wanted, other = rollout_stage.served_versions(stage)
    for default, expected in ((wanted, SERVING), (other, WRONG_VERSION)):
        loaded = {name: version(name == default, 1) for name in (wanted, other)}
        monkeypatch.setattr(TorchServe, "describe", lambda *_, loaded=loaded: loaded)
        assert check("tiny", here) is expected


def test_a_rollback_on_a_full_disk_is_not_undone_although_the_stage_does_not_say_so(
    settings: ServerSettings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    here = settings.model_copy(update={"state": tmp_path})
    monkeypatch.setattr(server, "find", lambda _: object())
    rollout_stage.replace_stage(rollout_stage.stage_path("tiny", here), None, make_stage(Phase.SERVES))
    monkeypatch.setattr(TorchServe, "describe", lambda *_: {"1.0": version(True, 1), "2.0": version(False, 1)})
    assert check("tiny", here) is SERVING


def test_a_rollback_that_the_edge_ordered_is_pending_until_the_server_follows(
    settings: ServerSettings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    here = settings.model_copy(update={"server_home": tmp_path, "state": tmp_path / "state"})
    monkeypatch.setattr(server, "find", lambda _: object())
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
    assert ordered_rollback("tiny", here) is None
    ordered = serves.model_copy(update={"phase": rollout_stage.Phase.ROLLBACK})
    rollout_stage.replace_stage(rollout_stage.stage_path("tiny", here), serves, ordered)
    monkeypatch.setattr(TorchServe, "describe", lambda *_: {"1.0": version(True, 1)})
    assert check("tiny", here) is SERVING, "only the registry does not know it yet"
    assert ordered_rollback("tiny", here) == "1.0"
    monkeypatch.setattr(TorchServe, "describe", lambda *_: {"2.0": version(True, 1), "1.0": version(False, 1)})
    assert check("tiny", here) is WRONG_VERSION
