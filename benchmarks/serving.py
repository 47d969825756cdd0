"""The endpoint under load, beside TorchServe's own no-op handler in the same run: our handler with profiles from Redis,
and the edge without and with its cache."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path

import psutil

from benchmarks import _load, _synthetic
from benchmarks._load import Load, Target, load, pooled
from benchmarks._record import write
from benchmarks._serving_report import CACHED, CASES, EDGE, HANDLER, NOOP, figures, soaked, table
from benchmarks._synthetic import NAME, Size
from config import params
from config.command import UserError, exits_cleanly
from config.params import ROOT
from features.feature_files import Features
from features.online import connect
from features.online.store import Policy
from serving import server
from serving.settings import ServerSettings
from serving.torchserve import patience
from serving.torchserve.client import TorchServe

K = 20
CORES = 2
STEPS, QUICK_STEPS = 100, 5  # of training: what is learned does not matter here
QUICK_SIZE = Size(users=300, items=400)
WARM_SECONDS = 2
SOAK_CONCURRENCY, SOAK_SECONDS = 8, 1
WHILE_MEASURED = 86_400  # seconds that a cached answer holds: none expires under the measurement
PROGRAMS = ("wrk", "redis-server")  # named like their Debian packages


class Bench:
    """Everything that runs while measuring.

    Args:
        targets: case -> where it is asked.
        size: of the service.
    """

    def __init__(self, targets: dict[str, Target], size: Size) -> None:
        self.targets, self.size = targets, size
        self._asked = 0  # users are asked in turn over all points, so that none meets the same few again

    def point(self, case: str, concurrency: int, seconds: float) -> Load:
        """Load one case for a while."""
        found = load(self.targets[case], concurrency, seconds, self.size.users, K, self._asked)
        self._asked += found.requests
        return found

    def warm(self) -> None:
        """Let code paths and connections warm up, and the cache hold an answer for every user."""
        for case in CASES:
            self.point(case, SOAK_CONCURRENCY, WARM_SECONDS)
        filled = 0
        while filled < self.size.users:
            filled += self.point(CACHED, SOAK_CONCURRENCY, WARM_SECONDS).requests

    def points(self, levels: list[int], seconds: float, rounds: int) -> dict[tuple[str, int], Load]:
        """(case, concurrency) -> what was measured; cases take turns, so that a slow spell of the machine meets all."""
        found: dict[tuple[str, int], list[Load]] = {(case, level): [] for level in levels for case in CASES}
        for level in levels:
            for case in CASES * rounds:
                found[case, level].append(told := self.point(case, level, seconds))
                print(f"{case} at {level}: {told.per_second:,.0f} requests/s, {told.bad} bad", flush=True)
        return {point: pooled(loads) for point, loads in found.items()}

    def soak(self, requests: int, processes: dict[str, int]) -> list[dict[str, float]]:
        """Memory by process before the first and after each third of so many requests to the handler, or a few more."""
        readings, asked = [memory(0, processes)], 0
        for third in (1, 2, 3):
            while asked < requests * third / 3:
                asked += self.point(HANDLER, SOAK_CONCURRENCY, SOAK_SECONDS).requests
            readings.append(memory(asked, processes))
        return readings


def memory(asked: int, processes: dict[str, int]) -> dict[str, float]:
    """Resident MB by name of the process, and after how many requests."""
    held = {name: round(psutil.Process(pid).memory_info().rss / 1e6, 1) for name, pid in processes.items()}
    return {"requests": asked, **held}


def start(stack: ExitStack, home: Path, size: Size, steps: int) -> tuple[Bench, ServerSettings, dict[str, int]]:
    """Start every server, all of which end with the stack; also the ids of the processes to watch."""
    chosen = params.load(ROOT / "params.yaml")
    made = _synthetic.features(size, chosen)
    artifact = _synthetic.artifact(home, made, size, chosen, steps)
    url = stored(stack, made, chosen)
    stack.enter_context(_load.environment(home, url))
    settings = stack.enter_context(_load.running(artifact))
    edge = stack.enter_context(_load.edge(home / "edge", cache="off"))
    kept = {"cache_seconds": WHILE_MEASURED, "stale_seconds": WHILE_MEASURED}
    cached = stack.enter_context(_load.edge(home / "cached", **kept))
    targets = {
        NOOP: _load.target(settings, _load.NOOP, "OK"),
        HANDLER: _load.target(settings, NAME, _load.PERSONAL),
        EDGE: edge,
        CACHED: cached,
    }
    return Bench(targets, size), settings, watched(settings, NAME)


def stored(stack: ExitStack, made: Features, chosen: params.Params) -> str:
    """The URL of a Redis with the profiles of everybody in the features."""
    url = stack.enter_context(_load.redis_server())
    store = connect.connect(made.description["dataset"], connect.StoreSettings(url), writing=True)
    store.configure(Policy(chosen.online.max_events, None))
    store.upsert(_synthetic.profiles(made))
    store.close()
    return url


def keep_to_cores() -> None:
    """Run on CORES cores, and every server that is started after it: so machines can be compared."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:CORES])


def watched(settings: ServerSettings, model: str) -> dict[str, int]:
    """The processes whose memory counts: name -> id."""
    frontend = server.find(settings)
    assert frontend is not None
    with TorchServe.of(settings) as client:
        ((worker, *_),) = (about.pids for about in client.describe(model).values())
    return {"worker": worker, "JVM": frontend.pid}


def lacks(benchmark: str) -> bool:
    """Whether a program is missing without which nothing can be measured; says which.

    No error: `make bench` goes on to what can be measured here.
    """
    for program in PROGRAMS:
        if shutil.which(program) is None:
            print(f"{benchmark}: there is no {program} on the path (Debian: apt-get install {program}); not measured")
            return True
    return False


def options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serving", description=__doc__)
    parser.add_argument("--seconds", type=float, default=5, help="of each point in each round (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=4, help="in which the cases take turns (default: %(default)s)")
    parser.add_argument("--concurrency", type=int, nargs="+", default=[1, 8, 32], help="default: 1 8 32")
    parser.add_argument("--soak", type=int, default=0, metavar="N", help="also watch memory over N requests")
    parser.add_argument("--quick", action="store_true", help="a small service, briefly; proves nothing, writes nothing")
    return parser


def check(given: argparse.Namespace) -> None:
    """Raises UserError: an argument is out of bounds."""
    if not given.seconds >= 1:
        raise UserError(f"--seconds is {given.seconds:g}; expected at least 1")
    for level in given.concurrency:
        if level < 1:
            raise UserError(f"--concurrency is {level}; expected at least 1")
    if given.rounds < 1:
        raise UserError(f"--rounds is {given.rounds}; expected at least 1")
    if given.soak < 0:
        raise UserError(f"--soak is {given.soak}; expected 0 or more requests")


@exits_cleanly
def main(argv: list[str] | None = None) -> int:
    given = options().parse_args(argv)
    check(given)
    if lacks("serving"):
        return 0
    keep_to_cores()
    size, steps = (QUICK_SIZE, QUICK_STEPS) if given.quick else (Size(), STEPS)
    seconds, levels = (1, [1, 8]) if given.quick else (given.seconds, sorted(set(given.concurrency)))
    with ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tidegate-bench-")))
        bench, settings, processes = start(stack, home, size, steps)
        bench.warm()
        points = bench.points(levels, seconds, 1 if given.quick else given.rounds)
        print(f"\n{table(points)}")
        readings = bench.soak(given.soak, processes) if given.soak else []
    if readings:
        print(f"\n{soaked(readings)}")
    if given.quick:
        print("nothing was written: --quick")
        return 0
    path = write("serving", {
        "reference": "TorchServe's no-op handler at batch size 1, by wrk from the same machine",
        "service": asdict(size) | {"k": K, "store": "redis", "cores": CORES},
        "settings": {"workers": settings.workers, "batch_size": settings.batch_size,
                     "batch_delay_us": patience.chosen_us(settings.batch_delay_us, indexed=False)},
        "seconds": seconds, "rounds": given.rounds, **figures(points), "soak_memory_mb": readings,
    })  # fmt: skip
    print(f"-> {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
