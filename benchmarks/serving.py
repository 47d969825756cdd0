"""The endpoint under load: our handler with profiles from Redis, and the edge without and with its cache.

Each run starts every server anew and compares them with TorchServe's own no-op handler of the same run. The report gives
the median over the runs and their range.
"""

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
from benchmarks._serving_report import CACHED, CASES, EDGE, HANDLER, NOOP, figures, memory_lines, table
from benchmarks._synthetic import NAME, Size
from config import params
from config.command import UserError, exits_cleanly
from config.paths import ROOT
from features.feature_files import Features
from features.online import connect
from features.online.store import Policy
from serving.settings import ServerSettings
from serving.torchserve import server
from serving.torchserve.client import TorchServe

K = 20
CORES = 2
STEPS, QUICK_STEPS = 100, 5  # of training: what is learned does not matter here
QUICK_SIZE = Size(users=300, items=400)
WARM_SECONDS = 2
SOAK_CONCURRENCY, SOAK_SECONDS = 8, 1
CACHE_SECONDS = 86_400  # no cached answer expires during the measurement
PROGRAMS = ("wrk", "redis-server")  # named like their Debian packages


class Bench:
    """The servers of one run.

    Args:
        targets: case -> where it is asked.
        size: of the service.
    """

    def __init__(self, targets: dict[str, Target], size: Size) -> None:
        self.targets, self.size = targets, size
        self._sent = 0  # users take turns over all points, so that no point sees the same few again

    def point(self, case: str, concurrency: int, seconds: float) -> Load:
        """Load one case for some seconds."""
        measured = load(self.targets[case], concurrency, seconds, self.size.users, K, self._sent)
        self._sent += measured.requests
        return measured

    def warm_up(self) -> None:
        """Warm code paths and connections, and fill the cache with an answer for every user."""
        for case in CASES:
            self.point(case, SOAK_CONCURRENCY, WARM_SECONDS)
        cached = 0
        while cached < self.size.users:
            cached += self.point(CACHED, SOAK_CONCURRENCY, WARM_SECONDS).requests

    def points(self, levels: list[int], seconds: float, rounds: int) -> dict[tuple[str, int], Load]:
        """(case, concurrency) -> what was measured. Cases take turns, so that a slow spell of the machine meets all."""
        measured: dict[tuple[str, int], list[Load]] = {(case, level): [] for level in levels for case in CASES}
        for level in levels:
            for case in CASES * rounds:
                one = self.point(case, level, seconds)
                measured[case, level].append(one)
                print(f"{case} at {level}: {one.per_second:,.0f} requests/s, {one.bad} bad", flush=True)
        return {point: pooled(loads) for point, loads in measured.items()}

    def soak(self, requests: int, processes: dict[str, int]) -> list[dict[str, float]]:
        """Memory by process before the first and after each third of at least so many requests to the handler."""
        readings, sent = [memory(0, processes)], 0
        for third in (1, 2, 3):
            while sent < requests * third / 3:
                sent += self.point(HANDLER, SOAK_CONCURRENCY, SOAK_SECONDS).requests
            readings.append(memory(sent, processes))
        return readings


def memory(requests: int, processes: dict[str, int]) -> dict[str, float]:
    """Resident MB by name of the process, and after how many requests."""
    held = {name: round(psutil.Process(pid).memory_info().rss / 1e6, 1) for name, pid in processes.items()}
    return {"requests": requests, **held}


def start(stack: ExitStack, home: Path, artifact: Path, made: Features, size: Size) -> tuple[Bench, ServerSettings]:
    """Start every server of a run; they end with the stack."""
    url = store_profiles(stack, made, params.load(ROOT / "params.yaml"))
    stack.enter_context(_load.server_environment(home, url))
    settings = stack.enter_context(_load.torchserve_server(artifact))
    edge = stack.enter_context(_load.edge_server(home / "edge", cache="off"))
    kept = {"cache_seconds": CACHE_SECONDS, "stale_seconds": CACHE_SECONDS}
    cached = stack.enter_context(_load.edge_server(home / "cached", **kept))
    targets = {
        NOOP: _load.model_target(settings, _load.NOOP, "OK"),
        HANDLER: _load.model_target(settings, NAME, _load.PERSONAL),
        EDGE: edge,
        CACHED: cached,
    }
    return Bench(targets, size), settings


def store_profiles(stack: ExitStack, made: Features, chosen: params.Params) -> str:
    """The URL of a Redis with the profiles of everybody in the features; it ends with the stack."""
    url = stack.enter_context(_load.redis_server())
    store = connect.connect(made.description["dataset"], connect.StoreSettings(url), writing=True)
    store.configure(Policy(chosen.online.max_events, None))
    store.upsert(_synthetic.profiles(made))
    store.close()
    return url


def keep_to_cores() -> None:
    """Run on CORES cores, and every server that is started after it, so that machines can be compared."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:CORES])


def processes_of(settings: ServerSettings, model: str) -> dict[str, int]:
    """The processes whose memory counts: name -> id."""
    frontend = server.find(settings)
    assert frontend is not None
    with TorchServe.from_settings(settings) as client:
        ((worker, *_),) = (about.pids for about in client.describe(model).values())
    return {"worker": worker, "JVM": frontend.pid}


def lacks(benchmark: str) -> bool:
    """Whether a program is missing without which nothing can be measured; prints which.

    No error: `make bench` goes on to what can be measured here.
    """
    for program in PROGRAMS:
        if shutil.which(program) is None:
            print(f"{benchmark}: {program} is not on the path (Debian: apt-get install {program}); not measured")
            return True
    return False


def options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serving", description=__doc__)
    parser.add_argument("--runs", type=int, default=3, help="with servers started anew for each (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=5, help="of each point in each round (default: %(default)s)")
    parser.add_argument(
        "--rounds", type=int, default=2, help="of a run, where the cases take turns (default: %(default)s)"
    )
    parser.add_argument("--concurrency", type=int, nargs="+", default=[1, 8, 32], help="default: 1 8 32")
    parser.add_argument(
        "--soak", type=int, default=0, metavar="N", help="also watch memory over N requests, in the last run"
    )
    parser.add_argument("--quick", action="store_true", help="a small service, briefly; proves nothing, writes nothing")
    return parser


def check(arguments: argparse.Namespace) -> None:
    """Raises UserError: an argument is out of bounds."""
    for name in ("runs", "seconds", "rounds"):
        value = getattr(arguments, name)
        if not value >= 1:
            raise UserError(f"--{name} is {value:g}; expected at least 1")
    for level in arguments.concurrency:
        if level < 1:
            raise UserError(f"--concurrency is {level}; expected at least 1")
    if arguments.soak < 0:
        raise UserError(f"--soak is {arguments.soak}; expected 0 or more requests")


@exits_cleanly
def main(argv: list[str] | None = None) -> int:
    arguments = options().parse_args(argv)
    check(arguments)
    if lacks("serving"):
        return 0
    if arguments.quick:
        arguments.seconds, arguments.rounds, arguments.concurrency = 1, 1, [1, 8]
    keep_to_cores()
    size, steps = (QUICK_SIZE, QUICK_STEPS) if arguments.quick else (Size(), STEPS)
    levels = sorted(set(arguments.concurrency))
    chosen = params.load(ROOT / "params.yaml")
    runs, readings = [], []
    with tempfile.TemporaryDirectory(prefix="tidegate-bench-") as folder:
        made = _synthetic.features(size, chosen)
        artifact = _synthetic.artifact(Path(folder), made, size, chosen, steps)
        for number in range(1, arguments.runs + 1):
            print(f"run {number} of {arguments.runs}", flush=True)
            with ExitStack() as stack:
                bench, settings = start(stack, Path(folder) / f"run-{number}", artifact, made, size)
                bench.warm_up()
                runs.append(bench.points(levels, arguments.seconds, arguments.rounds))
                if arguments.soak and number == arguments.runs:
                    readings = bench.soak(arguments.soak, processes_of(settings, NAME))
    print(f"\n{table(runs)}")
    if readings:
        print(f"\n{memory_lines(readings)}")
    if arguments.quick:
        print("nothing was written: --quick")
        return 0
    path = write("serving", {
        "reference": "TorchServe's no-op handler at batch size 1, by wrk from the same machine",
        "service": asdict(size) | {"k": K, "store": "redis", "cores": CORES},
        "settings": {"workers": settings.workers, "batch_size": settings.batch_size,
                     "batch_delay_ms": settings.batch_delay_ms},
        "runs": arguments.runs, "rounds": arguments.rounds, "seconds": arguments.seconds,
        **figures(runs), "soak_memory_mb": readings,
    })  # fmt: skip
    print(f"-> {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
