"""Keep TorchServe serving, in the foreground: look every few seconds, and mend what does not heal by itself.

TorchServe restarts a worker that dies. Nobody restarts TorchServe, and a worker whose files are gone never comes up
again. Here the server is started, and its models come back with it; where it stays silent or without a worker it is
started anew; and what is missing then is deployed from the registry, as is a rollback that the edge ordered. SIGTERM or an interrupt ends the server too;
`python -m serving.server stop` ends both. What keeps the keeper is a service manager, for instance systemd:

    [Service]
    WorkingDirectory=/srv/tidegate
    ExecStart=/srv/tidegate/.venv/bin/python -m serving.supervisor
    Restart=on-failure

or a container of which this is the command, run with --restart on-failure.
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
from config.params import ROOT
from serving import server
from serving import settings as environment
from serving.deployment import rollout_stage
from serving.deployment.rollout_stage import Phase, StageError
from serving.settings import ServerSettings
from serving.torchserve.client import ServerError, TorchServe

EVERY_SECONDS = 2.0  # between two looks
PATIENCE_SECONDS = 15.0  # TorchServe restarts a killed worker in less, even on a busy machine
LOOK_SECONDS = 5.0  # that an answer of the management address may take
LONGEST_REST = 60.0  # between two attempts that brought nothing

Say = Callable[[str], None]


class State(StrEnum):
    """What a look finds."""

    SERVES = "serves"
    GONE = "is not running"
    SILENT = "does not answer"
    EMPTY = "has no version loaded"
    IDLE = "has no worker for the version that should answer"
    ORDERED = "serves the version before, as a rollback ordered, of which the registry does not know yet"


PASSING = (State.SILENT, State.IDLE)  # may heal by themselves


class MendError(UserError):
    """A deployment failed; it has said why."""


def look(dataset: str, settings: ServerSettings) -> State:
    """How the server is. Asks the management address, which no load of requests keeps waiting."""
    if server.find(settings) is None:
        return State.GONE
    urls = settings.inference_url, settings.management_url
    try:
        with TorchServe(*urls, settings.key_file, timeout=LOOK_SECONDS) as client:
            loaded = client.describe(dataset).values()
    except ServerError:
        return State.SILENT
    if not loaded:
        return State.EMPTY
    if not any(live.default and live.ready for live in loaded):
        return State.IDLE
    return State.ORDERED if _ordered(dataset, settings) else State.SERVES


def _ordered(dataset: str, settings: ServerSettings) -> bool:
    with suppress(StageError):  # which a deployment will say
        standing = rollout_stage.read(rollout_stage.place(dataset, settings))
        return standing is not None and standing.phase is Phase.BACK
    return False


def mend(state: State, again: bool, dataset: str, settings: ServerSettings) -> None:
    """Do what helps against a state; `again`: what was done first did not.

    Raises:
        UserError: it could not be done.
    """
    if state is State.GONE:
        server.start(settings)
    elif state is State.SILENT or (state is State.IDLE and not again):
        server.stop(settings)
        server.start(settings)
    else:
        # In a process of its own: the registry's client is large, and nothing in it may end the keeper.
        command = [sys.executable, "-m", "serving.deploy", "--dataset", dataset]
        if subprocess.run(command, cwd=ROOT).returncode:
            raise MendError("the deployment failed, as it says")


class Keeper:
    """Looks and mends until told to end, or until somebody stops the server on purpose.

    Args:
        look, mend: as the functions of this file, of a data set and settings.
        stopped: whether the server is down because somebody stopped it.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        look: Callable[[], State],
        mend: Callable[[State, bool], None],
        stopped: Callable[[], bool],
        patience: float = PATIENCE_SECONDS,
        say: Say = print,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._look, self._mend, self._stopped = look, mend, stopped
        self._patience, self._say, self._clock = patience, say, clock
        self._met = False  # whether the server has been seen to run
        self._trouble: float | None = None  # since when it has not served
        self._tries = 0  # to mend that

    def step(self) -> float | None:
        """Look once, and mend if it is time to; seconds until the next look, None where nothing is to be kept."""
        state = self._state()
        if state is State.SERVES:
            return self._well()
        if self._met and not self._tries and self._stopped():
            self._say("TorchServe was stopped, so there is nothing to keep")
            return None
        self._met |= state is not State.GONE
        now = self._clock()
        self._trouble = now if self._trouble is None else self._trouble
        if state in PASSING and not self._tries and now - self._trouble < self._patience:
            return EVERY_SECONDS
        return self._help(state)

    def _state(self) -> State:
        try:
            return self._look()
        except Exception as error:  # an answer of a shape that nobody foresaw is no reason to keep no longer
            self._say(f"error: {error!r}")
            return State.SILENT

    def _well(self) -> float:
        if self._tries or not self._met:
            self._say("TorchServe serves")
        self._met, self._trouble, self._tries = True, None, 0
        return EVERY_SECONDS

    def _help(self, state: State) -> float:
        self._tries += 1
        self._say(f"TorchServe {state}")
        try:
            self._mend(state, self._tries > 1)
        except Exception as error:  # a full disk, say: it may have room at the next attempt
            self._say(f"error: {error if isinstance(error, UserError) else repr(error)}")
        if self._state() is State.SERVES:  # now: until the next look it may have failed anew, in another way
            return self._well()
        return min(EVERY_SECONDS * 2 ** (self._tries - 1), LONGEST_REST)


@exits_cleanly
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m serving.supervisor", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dataset", metavar="NAME", help="default: params.dataset")
    parser.add_argument(
        "--patience",
        type=float,
        default=PATIENCE_SECONDS,
        metavar="SECONDS",
        help="to leave a server that runs and does not serve to itself (default: %(default)g)",
    )
    arguments = parser.parse_args(argv)
    dataset = arguments.dataset or params.load(ROOT / "params.yaml").dataset
    settings = environment.load()
    keeper = Keeper(
        lambda: look(dataset, settings),
        lambda state, again: mend(state, again, dataset, settings),
        lambda: server.stopped(settings),
        arguments.patience,
        _say,
    )
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # raises, which ends a deployment that is under way, too
    try:
        while (rest := keeper.step()) is not None:
            time.sleep(rest)
    except KeyboardInterrupt:
        server.stop(settings)
    return 0


def _say(text: str) -> None:
    with suppress(OSError):  # what standard output goes to may be full
        print(text, flush=True)


if __name__ == "__main__":
    sys.exit(main())
