"""Keep TorchServe serving: check it every two seconds, and repair what does not recover by itself.

It starts the server, restarts it if it stays unresponsive or without a worker, and loads what served, from the archives
on this machine: the registry need not be reachable, and a promoted version is not switched to. A rollback that the edge
ordered is done on the server at once, and then recorded in the registry. SIGTERM or Ctrl-C stops the supervisor and the
server, and so does `python -m serving.server stop`. If the supervisor is killed, the server that it started ends, too.
"""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from enum import StrEnum

from config import params
from config.command import UserError, exits_cleanly
from config.paths import ROOT
from config.processes import END_WITH_PARENT
from serving import settings as environment
from serving.deployment import rollout_stage
from serving.deployment.restore import restore
from serving.deployment.rollout_stage import Phase, RolloutStage, StageError, served_versions
from serving.settings import ServerSettings
from serving.torchserve import server
from serving.torchserve.client import ServerError, TorchServe

CHECK_SECONDS = 2.0  # between two checks
GRACE_SECONDS = 15.0  # left to a running server to recover: it restarts a killed worker in less
ANSWER_SECONDS = 5.0  # that the management address may take to answer
LONGEST_PAUSE = 60.0  # between two repairs that did not help


class State(StrEnum):
    """What a check finds."""

    SERVING = "is serving"
    NOT_RUNNING = "is not running"
    UNRESPONSIVE = "does not answer"
    NO_MODEL = "has no version loaded"
    NO_WORKER = "has no worker for its default version"
    WRONG_VERSION = "does not serve the version that the rollout stage names"


MAY_RECOVER = (State.UNRESPONSIVE, State.NO_WORKER)  # by itself, within GRACE_SECONDS


def check(dataset: str, settings: ServerSettings) -> State:
    """The state of the server. Asks the management address, which stays quick under load."""
    if server.find(settings) is None:
        return State.NOT_RUNNING
    urls = settings.inference_url, settings.management_url
    try:
        with TorchServe(*urls, settings.key_file, timeout=ANSWER_SECONDS) as client:
            loaded = client.describe(dataset)
    except ServerError:
        return State.UNRESPONSIVE
    if not loaded:
        return State.NO_MODEL
    default = next((version for version, live in loaded.items() if live.default), None)
    stage = _read_stage(dataset, settings)
    # On a full disk a rollback to the version before is not written, and must not be undone.
    if stage and default not in (served_versions(stage)[0], None if stage.rollback_reason else stage.previous):
        return State.WRONG_VERSION
    return State.SERVING if default and loaded[default].ready else State.NO_WORKER


def ordered_rollback(dataset: str, settings: ServerSettings) -> str | None:
    """The version that a rollback in the stage wants, if the registry does not record it yet."""
    stage = _read_stage(dataset, settings)
    return stage.previous if stage is not None and stage.phase is Phase.ROLLBACK else None


def _read_stage(dataset: str, settings: ServerSettings) -> RolloutStage | None:
    """The rollout stage; None if it cannot be read, which a deployment reports."""
    with suppress(StageError):
        return rollout_stage.read_stage(rollout_stage.stage_path(dataset, settings))
    return None


def repair(state: State, again: bool, dataset: str, settings: ServerSettings) -> None:
    """Repair a state; `again` if the first repair did not help. Raises UserError if the repair fails."""
    if state is State.UNRESPONSIVE or (state is State.NO_WORKER and not again):
        server.stop(settings, on_purpose=False)
    restore(dataset, settings, _print, end_with_parent=True)


class RollbackRecorder:
    """Records an ordered rollback in the registry, by a process of its own: the registry may take minutes, or be away."""

    def __init__(
        self, dataset: str, is_pending: Callable[[], bool], clock: Callable[[], float] = time.monotonic
    ) -> None:
        # A process of its own: the registry's client is large, and nothing in it may end the supervisor.
        self._command = [*END_WITH_PARENT, sys.executable, "-m", "serving.deploy", "--settle", "--dataset", dataset]
        self._is_pending, self._clock = is_pending, clock
        self._process: subprocess.Popen | None = None
        self._attempts, self._next_attempt = 0, 0.0

    def step(self) -> None:
        """Start an attempt if a rollback is pending and it is time to."""
        if self._process is not None and self._process.poll() is None:
            return
        if not self._is_pending():
            self._attempts, self._next_attempt = 0, 0.0
        elif self._clock() >= self._next_attempt:
            self._process = subprocess.Popen(self._command, cwd=ROOT)
            self._attempts += 1
            self._next_attempt = self._clock() + min(CHECK_SECONDS * 2**self._attempts, LONGEST_PAUSE)

    def close(self) -> None:
        """End an attempt that runs."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            self._process.wait()


class Supervisor:
    """Checks and repairs, by the functions of this file, until somebody stops the server on purpose."""

    def __init__(
        self,
        check: Callable[[], State],
        repair: Callable[[State, bool], None],
        was_stopped: Callable[[], bool],
        log: Callable[[str], None] = print,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._check, self._repair, self._was_stopped = check, repair, was_stopped
        self._log, self._clock = log, clock
        self._has_run = False  # whether the server has been seen to run
        self._failing_since: float | None = None
        self._repairs = 0  # since it last served
        self._repaired: State | None = None  # by the last of them
        self._next_repair = 0.0  # of the same state; another state is repaired at once

    def step(self) -> float | None:
        """Check once, and repair if it is time to. Seconds until the next check; None to end."""
        state = self._state()
        if state is State.SERVING:
            self._serving()
            return CHECK_SECONDS
        if self._has_run and self._was_stopped():
            self._log("TorchServe was stopped on purpose; the supervisor ends")
            return None
        self._has_run |= state is not State.NOT_RUNNING
        if self._failing_since is None:
            self._failing_since = self._clock()
        is_recent = self._clock() - self._failing_since < GRACE_SECONDS
        if state in MAY_RECOVER and is_recent and not self._repairs:
            return CHECK_SECONDS
        if state is not self._repaired or self._clock() >= self._next_repair:
            self._attempt_repair(state)
        return CHECK_SECONDS

    def _state(self) -> State:
        try:
            return self._check()
        except Exception as error:  # an unforeseen answer must not end the supervisor
            self._log(f"error: {error!r}")
            return State.UNRESPONSIVE

    def _serving(self) -> None:
        if self._repairs or not self._has_run:
            self._log(f"TorchServe {State.SERVING}")
        self._has_run, self._failing_since, self._repairs, self._repaired = True, None, 0, None

    def _attempt_repair(self, state: State) -> None:
        self._repairs += 1
        self._log(f"TorchServe {state}")
        try:
            self._repair(state, self._repairs > 1)
        except Exception as error:  # for instance a full disk, which may have room at the next attempt
            self._log(f"error: {error if isinstance(error, UserError) else repr(error)}")
        if self._state() is State.SERVING:  # now: at the next check it may have failed again, in another way
            self._serving()
            return
        self._repaired = state
        self._next_repair = self._clock() + min(CHECK_SECONDS * 2 ** (self._repairs - 1), LONGEST_PAUSE)


@exits_cleanly
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m serving.supervisor", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dataset", metavar="NAME", help="default: params.dataset")
    parser.add_argument("--no-registry", action="store_true", help="record no rollback: there is no registry")
    arguments = parser.parse_args(argv)
    dataset = arguments.dataset or params.load(ROOT / "params.yaml").dataset
    settings = environment.load()
    supervisor = Supervisor(
        lambda: check(dataset, settings),
        lambda state, again: repair(state, again, dataset, settings),
        lambda: server.was_stopped(settings),
        log=_print,
    )
    recorder = RollbackRecorder(
        dataset, lambda: not arguments.no_registry and ordered_rollback(dataset, settings) is not None
    )
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # raises
    try:
        while (pause := supervisor.step()) is not None:
            recorder.step()
            time.sleep(pause)
    except KeyboardInterrupt:
        server.stop(settings)
    finally:
        recorder.close()
    return 0


def _print(line: str) -> None:
    with suppress(OSError):  # standard output may go to a full disk
        print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
