"""What a container runs: the supervisor of TorchServe, without a registry, and the edge in front of it.

Either is started again when it ends. SIGTERM or Ctrl-C ends the edge first, which drains, and then TorchServe. If the edge
ends again and again, the command ends with exit code 1, so that the platform replaces the container.
With `health` it prints what /readyz says, and exits with 0 only if the model answers.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from urllib.error import HTTPError
from urllib.request import ProxyHandler, build_opener

from config.command import exits_cleanly
from config.paths import ROOT
from config.processes import END_WITH_PARENT

CHECK_SECONDS = 0.2
STEADY_SECONDS = 60.0  # a process that ran this long begins anew with quick restarts
LONGEST_PAUSE = 30.0  # between two starts
EDGE_FAILURES = 6  # in a row, which take half a minute
STOP_SECONDS = 40.0  # that TorchServe and its workers may take to stop
HEALTH_SECONDS = 2.0


class Child:
    """A process that is started again when it ends: at once, then after growing pauses."""

    def __init__(self, command: list[str], clock: Callable[[], float] = time.monotonic) -> None:
        self.command, self._clock = command, clock
        self.failures = 0  # times that it ended in a row, each soon after its start
        self._process: subprocess.Popen | None = None
        self._started, self._next_start = 0.0, 0.0

    def keep(self) -> None:
        """Start it if it does not run and it is time to."""
        now = self._clock()
        if self._process is not None and (code := self._process.poll()) is not None:
            self._process = None
            self.failures = self.failures + 1 if now - self._started < STEADY_SECONDS else 1
            pause = 0.0 if self.failures == 1 else min(2.0 ** (self.failures - 2), LONGEST_PAUSE)
            self._next_start = now + pause
            with suppress(OSError):  # standard output may go to a full disk
                print(f"{self.command[0]} ended with {code}; it is started again in {pause:g} s", flush=True)
        if self._process is None and now >= self._next_start:
            self._started = now
            # A session of its own: Ctrl-C ends this command, which then ends its children in order.
            command = [*END_WITH_PARENT, sys.executable, "-m", *self.command]
            self._process = subprocess.Popen(command, cwd=ROOT, start_new_session=True)

    def stop(self, seconds: float) -> None:
        """End it with SIGTERM, and with SIGKILL where that does not help."""
        if self._process is None or self._process.poll() is not None:
            return
        self._process.terminate()
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def run() -> int:
    """Keep both until a signal, or until the edge cannot be kept. The exit code."""
    from serving.edge import settings  # not at the top: the health check needs none of it
    from web.uvicorn_options import GRACEFUL_SECONDS

    edge_settings = settings.load()
    ends = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ends.set())
    supervisor = Child(["serving.supervisor", "--no-registry", "--dataset", edge_settings.dataset])
    edge = Child(["serving.edge.serve"])
    while not ends.wait(CHECK_SECONDS) and edge.failures < EDGE_FAILURES:
        supervisor.keep()
        edge.keep()
    edge.stop(edge_settings.drain_seconds + 2 * GRACEFUL_SECONDS)
    supervisor.stop(STOP_SECONDS)
    if edge.failures < EDGE_FAILURES:
        return 0
    print("error: the edge does not stay up; its log above says why", file=sys.stderr)
    return 1


def health() -> int:
    """Print what /readyz says; 0 if the model answers, else 1."""
    port = os.environ.get("TIDEGATE_EDGE_PORT") or "8090"
    opener = build_opener(ProxyHandler({}))
    try:
        with opener.open(f"http://127.0.0.1:{port}/readyz", timeout=HEALTH_SECONDS) as response:
            body = response.read()
    except HTTPError as error:
        body = error.read()
    except OSError as error:
        print(f"the edge does not answer: {error}")
        return 1
    print(body.decode())
    return 0 if json.loads(body)["status"] == "ready" else 1


@exits_cleanly
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m serving.container", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("action", nargs="?", choices=("run", "health"), default="run")
    return run() if parser.parse_args(argv).action == "run" else health()


if __name__ == "__main__":
    sys.exit(main())
