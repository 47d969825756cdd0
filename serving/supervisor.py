"""Keep TorchServe serving: check it every two seconds, and repair what does not recover by itself.

It starts the server with its models, restarts it if it stays unresponsive or without a worker, and deploys what is
missing. It also completes a rollback that the edge ordered. SIGTERM or Ctrl-C stops it and the server, and so does
`python -m serving.server stop`.
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
from serving import settings as environment
from serving.deployment import rollout_stage
from serving.deployment.rollout_stage import Phase, StageError
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
    ROLLBACK_PENDING = "serves the previous version after a rollback that the registry does not record yet"


MAY_RECOVER = (State.UNRESPONSIVE, State.NO_WORKER)  # by itself, within GRACE_SECONDS


def check(dataset: str, settings: ServerSettings) -> State:
    """The state of the server. Asks the management address, which stays quick under load."""
    if server.find(settings) is None:
        return State.NOT_RUNNING
    urls = settings.inference_url, settings.management_url
    try:
        with TorchServe(*urls, settings.key_file, timeout=ANSWER_SECONDS) as client:
            loaded = client.describe(dataset).values()
    except ServerError:
        return State.UNRESPONSIVE
    if not loaded:
        return State.NO_MODEL
    if not any(version.default and version.ready for version in loaded):
        return State.NO_WORKER
    with suppress(StageError):  # a deployment will report it
        stage = rollout_stage.read_stage(rollout_stage.stage_path(dataset, settings))
        if stage is not None and stage.phase is Phase.ROLLBACK:
            return State.ROLLBACK_PENDING
    return State.SERVING


def repair(state: State, again: bool, dataset: str, settings: ServerSettings) -> None:
    """Repair a state; `again` if the first repair did not help. Raises UserError if the repair fails."""
    if state is State.NOT_RUNNING:
        server.start(settings)
    elif state is State.UNRESPONSIVE or (state is State.NO_WORKER and not again):
        server.stop(settings)
        server.start(settings)
    else:
        # A process of its own: the registry's client is large, and nothing in it may end the supervisor.
        command = [sys.executable, "-m", "serving.deploy", "--dataset", dataset]
        if subprocess.run(command, cwd=ROOT).returncode:
            raise UserError("the deployment failed; see its output above")


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

    def step(self) -> float | None:
        """Check once, and repair if it is time to. Seconds until the next check; None to end."""
        state = self._state()
        if state is State.SERVING:
            return self._serving()
        if self._has_run and not self._repairs and self._was_stopped():
            self._log("TorchServe was stopped on purpose; the supervisor ends")
            return None
        self._has_run |= state is not State.NOT_RUNNING
        if self._failing_since is None:
            self._failing_since = self._clock()
        is_recent = self._clock() - self._failing_since < GRACE_SECONDS
        if state in MAY_RECOVER and is_recent and not self._repairs:
            return CHECK_SECONDS
        return self._attempt_repair(state)

    def _state(self) -> State:
        try:
            return self._check()
        except Exception as error:  # an unforeseen answer must not end the supervisor
            self._log(f"error: {error!r}")
            return State.UNRESPONSIVE

    def _serving(self) -> float:
        if self._repairs or not self._has_run:
            self._log(f"TorchServe {State.SERVING}")
        self._has_run, self._failing_since, self._repairs = True, None, 0
        return CHECK_SECONDS

    def _attempt_repair(self, state: State) -> float:
        self._repairs += 1
        self._log(f"TorchServe {state}")
        try:
            self._repair(state, self._repairs > 1)
        except Exception as error:  # for instance a full disk, which may have room at the next attempt
            self._log(f"error: {error if isinstance(error, UserError) else repr(error)}")
        if self._state() is State.SERVING:  # now: at the next check it may have failed again, in another way
            return self._serving()
        return min(CHECK_SECONDS * 2 ** (self._repairs - 1), LONGEST_PAUSE)


@exits_cleanly
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m serving.supervisor", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dataset", metavar="NAME", help="default: params.dataset")
    arguments = parser.parse_args(argv)
    dataset = arguments.dataset or params.load(ROOT / "params.yaml").dataset
    settings = environment.load()
    supervisor = Supervisor(
        lambda: check(dataset, settings),
        lambda state, again: repair(state, again, dataset, settings),
        lambda: server.was_stopped(settings),
        log=_print,
    )
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # raises, which ends a running deployment too
    try:
        while (pause := supervisor.step()) is not None:
            time.sleep(pause)
    except KeyboardInterrupt:
        server.stop(settings)
    return 0


def _print(line: str) -> None:
    with suppress(OSError):  # standard output may go to a full disk
        print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
