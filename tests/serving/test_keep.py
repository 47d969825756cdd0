"""The keeper leaves to TorchServe what TorchServe heals, mends the rest, and rests longer after each vain attempt."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from config.command import UserError
from serving import server, supervisor
from serving.deployment import rollout_stage
from serving.settings import ServerSettings
from serving.supervisor import EVERY_SECONDS, LONGEST_REST, Keeper, State, look, mend
from serving.torchserve.client import ServerError, TorchServe

SERVES, GONE, SILENT, EMPTY, IDLE, ORDERED = State


class World:
    """A server that is in one state, and a clock that only the test moves."""

    def __init__(self) -> None:
        self.state, self.stopped, self.now = SERVES, False, 0.0
        self.fails, self.mends = False, False
        self.mended: list[tuple[State, bool]] = []
        self.said: list[str] = []
        self.keeper = Keeper(
            lambda: self.state, self.mend, lambda: self.stopped, 15, self.said.append, lambda: self.now
        )

    def mend(self, state: State, again: bool) -> None:
        self.mended.append((state, again))
        if self.fails:
            raise UserError("no way")
        self.state = SERVES if self.mends else state

    def step(self) -> float | None:
        rest = self.keeper.step()
        self.now += rest or 0
        return rest


@pytest.fixture
def world() -> World:
    return World()


def test_a_server_that_serves_is_left_alone(world: World) -> None:
    assert [world.step() for _ in range(3)] == [EVERY_SECONDS] * 3
    assert (world.mended, world.said) == ([], ["TorchServe serves"])


@pytest.mark.parametrize("state", [GONE, EMPTY, ORDERED])
def test_what_cannot_heal_by_itself_is_mended_at_once(world: World, state: State) -> None:
    world.step()
    world.state = state
    world.step()
    assert world.mended == [(state, False)]


@pytest.mark.parametrize("state", [SILENT, IDLE])
def test_what_may_heal_by_itself_is_given_the_time(world: World, state: State) -> None:
    world.step()
    for _ in range(3):  # each time it heals in 8 s
        world.state = state
        for _ in range(4):
            world.step()
        world.state = SERVES
        world.step()
    assert not world.mended
    world.state = state
    while not world.mended:
        world.step()
    assert world.now >= 3 * 10 + 15


def test_vain_attempts_come_ever_more_rarely_and_say_why(world: World) -> None:
    world.state, world.fails = GONE, True
    rests = [world.step() for _ in range(8)]
    assert rests == [2, 4, 8, 16, 32, LONGEST_REST, LONGEST_REST, LONGEST_REST]
    assert world.mended == [(GONE, False)] + [(GONE, True)] * 7
    assert world.said[:2] == ["TorchServe is not running", "error: no way"]
    world.state, world.fails = SERVES, False
    world.step()
    world.state = GONE
    assert world.step() == EVERY_SECONDS, "the next trouble is a new one"


def test_each_trouble_that_was_mended_begins_the_next_one_anew(world: World) -> None:
    world.mends = True
    world.step()
    for _ in range(3):
        world.state = GONE
        assert world.step() == EVERY_SECONDS
    assert world.mended == [(GONE, False)] * 3


def test_nothing_that_goes_wrong_ends_the_keeper(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(world.keeper, "_mend", broken)
    world.state = GONE
    assert [world.step(), world.step()] == [2, 4]
    monkeypatch.setattr(world.keeper, "_look", broken)
    assert world.step() == 8
    assert "No space left" in world.said[-1]


def test_a_server_that_somebody_stopped_is_kept_no_longer(world: World) -> None:
    world.step()
    world.state, world.stopped = GONE, True
    assert world.step() is None
    assert not world.mended


def test_a_server_that_never_ran_is_started(world: World) -> None:
    world.state, world.stopped = GONE, True
    assert world.step() == EVERY_SECONDS
    assert world.mended == [(GONE, False)]


@pytest.fixture
def done(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What mend does, instead of it being done."""
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
        (GONE, False, ["start"]),
        (GONE, True, ["start"]),
        (SILENT, False, ["stop", "start"]),
        (IDLE, False, ["stop", "start"]),
        (IDLE, True, ["serving.deploy"]),
        (EMPTY, False, ["serving.deploy"]),
        (ORDERED, False, ["serving.deploy"]),
    ],
)
def test_each_state_has_its_remedy(
    settings: ServerSettings, done: list[str], state: State, again: bool, expected: list[str]
) -> None:
    mend(state, again, "tiny", settings)
    assert done == expected


def test_a_deployment_that_fails_is_an_error_of_the_keepers_kind(
    settings: ServerSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subprocess, "run", lambda command, **_: subprocess.CompletedProcess(command, 1))
    with pytest.raises(supervisor.MendError):
        mend(EMPTY, False, "tiny", settings)


def version(default: bool, ready: int) -> object:
    return type("Live", (), {"default": default, "ready": ready})


@pytest.mark.parametrize(
    ("described", "expected"),
    [
        ({"1.0": version(True, 1), "2.0": version(False, 0)}, SERVES),
        ({"1.0": version(True, 0), "2.0": version(False, 1)}, IDLE),
        ({}, EMPTY),
        (ServerError("nothing came"), SILENT),
    ],
)
def test_a_look_asks_for_a_worker_of_the_version_that_answers(
    settings: ServerSettings, monkeypatch: pytest.MonkeyPatch, described: dict | ServerError, expected: State
) -> None:
    def describe(*_: object) -> dict:
        if isinstance(described, ServerError):
            raise described
        return described

    assert look("tiny", settings) is GONE
    found: Callable = lambda _: object()  # noqa: E731
    monkeypatch.setattr(server, "find", found)
    monkeypatch.setattr(TorchServe, "describe", describe)
    assert look("tiny", settings) is expected


def test_a_rollback_that_the_edge_ordered_is_ended_by_the_keeper(
    settings: ServerSettings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    here = settings.model_copy(update={"server_home": tmp_path})
    monkeypatch.setattr(server, "find", lambda _: object())
    monkeypatch.setattr(TorchServe, "describe", lambda *_: {"1.0": version(True, 1)})
    ends = {
        "dataset": "tiny",
        "version": "2.0",
        "previous": "1.0",
        "since": rollout_stage.now(),
        "why": "errors",
        "by": "edge@h",
    }
    serves = rollout_stage.Stage(phase=rollout_stage.Phase.SERVES, **ends)
    rollout_stage.move(rollout_stage.place("tiny", here), None, serves)
    assert look("tiny", here) is SERVES
    rollout_stage.move(
        rollout_stage.place("tiny", here), serves, serves.model_copy(update={"phase": rollout_stage.Phase.BACK})
    )
    assert look("tiny", here) is ORDERED
