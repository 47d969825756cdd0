"""The endpoint under load: our handler with profiles from Redis, and the edge without and with its cache.

Each run starts every server anew and compares them with TorchServe's own no-op handler of the same run. The report gives
the median over the runs and their range.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from statistics import median

from benchmarks import _load, _synthetic
from benchmarks._load import CORES, HANDLER, NOOP, WARM_SECONDS, Bench, K, Points
from benchmarks._record import write
from benchmarks._synthetic import Size
from config import params
from config.command import UserError, exits_cleanly
from config.paths import ROOT

EDGE, CACHED = "edge", "edge cached"
CASES = (NOOP, HANDLER, EDGE, CACHED)
STEPS, QUICK_STEPS = 100, 5  # of training: what is learned does not matter in this benchmark
QUICK_SIZE = Size(users=300, items=400)
SOAK_CONCURRENCY, SOAK_SECONDS = 8, 1
CACHE_SECONDS = 86_400  # no cached answer expires during the measurement
ROW = "{:<12}{:>6} {:>23} {:>21} {:>23} {:>19} {:>8} {:>6}"

Spread = dict[str, float]  # a figure over separate runs: `median`, `low` and `high`


def warm_up(bench: Bench) -> None:
    """Warm code paths and connections, and fill the cache with an answer for every user."""
    for case in CASES:
        bench.point(case, SOAK_CONCURRENCY, WARM_SECONDS)
    cached = 0
    while cached < bench.users:
        cached += bench.point(CACHED, SOAK_CONCURRENCY, WARM_SECONDS).requests


def soak(bench: Bench, requests: int) -> list[dict[str, float]]:
    """Memory by process before the first and after each third of at least so many requests to the handler."""
    readings, sent = [_load.memory(0)], 0
    for third in (1, 2, 3):
        while sent < requests * third / 3:
            sent += bench.point(HANDLER, SOAK_CONCURRENCY, SOAK_SECONDS).requests
        readings.append(_load.memory(sent))
    return readings


def figures(runs: Sequence[Points]) -> dict:
    """The points and the targets for results/serving.json."""
    levels = sorted({level for _, level in runs[0]})
    return {
        "points": [_point(runs, case, level) for level in levels for case in CASES],
        "targets": [target for level in levels for target in _targets(runs, level)],
    }


def spread(runs: Sequence[Points], figure: Callable[[Points], float], digits: int = 3) -> Spread:
    """The median and the range of a figure that each run gives."""
    values = [figure(points) for points in runs]
    found = {"median": median(values), "low": min(values), "high": max(values)}
    return {name: round(value, digits) for name, value in found.items()}


def ratio(runs: Sequence[Points], case: str, reference: str, level: int) -> Spread:
    """Throughput of a case divided by that of another in the same run."""
    return spread(runs, lambda points: points[case, level].per_second / points[reference, level].per_second)


def _point(runs: Sequence[Points], case: str, level: int) -> dict:
    loads = [points[case, level] for points in runs]
    return {
        "case": case,
        "concurrency": level,
        "requests_per_second": spread(runs, lambda points: points[case, level].per_second, digits=1),
        "p50_ms": spread(runs, lambda points: points[case, level].p50_ms),
        "p99_ms": spread(runs, lambda points: points[case, level].p99_ms),
        "of_noop": ratio(runs, case, NOOP, level),
        "requests": sum(one.requests for one in loads),
        "not_200": sum(one.refused for one in loads),
        "not_personal": sum(one.other for one in loads),
        "failed": sum(one.broken + one.late for one in loads),
    }


def _targets(runs: Sequence[Points], level: int) -> list[dict]:
    """The bounds at one concurrency, which the median over the runs has to meet."""
    if level == 1:  # a lone request waits the batch delay, so its latency is the point, not its throughput
        lag = spread(runs, lambda points: points[HANDLER, 1].p50_ms - points[NOOP, 1].p50_ms)
        found = [("handler p50 minus no-op p50, ms", lag, "at_most", 4.0)]
    else:
        found = [("handler / no-op, requests/s", ratio(runs, HANDLER, NOOP, level), "at_least", 0.6)]
    found.append(("edge / handler, requests/s", ratio(runs, EDGE, HANDLER, level), "at_least", 0.3))
    if level == 8:
        found.append(("edge p99, ms", spread(runs, lambda points: points[EDGE, 8].p99_ms), "at_most", 50))
    return [
        {"target": text, "concurrency": level, **figure, side: bound}
        | {"met": figure["median"] <= bound if side == "at_most" else figure["median"] >= bound}
        for text, figure, side, bound in found
    ]


def table(measured: dict) -> str:
    """A line per case and concurrency, then a line per target: medians, with the range over the runs in brackets."""
    lines = [ROW.format("", "conc.", "requests/s", "p50 ms", "p99 ms", "of no-op", "not 200", "other")]
    for point in measured["points"]:
        digits = {"requests_per_second": 0, "p50_ms": 2, "p99_ms": 2, "of_noop": 2}
        shown = [_shown(point[name], number) for name, number in digits.items()]
        failed = point["not_200"] + point["failed"]
        lines.append(ROW.format(point["case"], point["concurrency"], *shown, failed, point["not_personal"]))
    lines.append("")
    for target in measured["targets"]:
        bound = f"at most {target['at_most']:g}" if "at_most" in target else f"at least {target['at_least']:g}"
        met = "met" if target["met"] else "MISSED"
        lines.append(f"{met:<7} at {target['concurrency']:>2}: {target['target']}: {_shown(target, 2)}, {bound}")
    return "\n".join(lines)


def _shown(figure: Mapping[str, float], digits: int) -> str:
    return f"{figure['median']:,.{digits}f} [{figure['low']:,.{digits}f}, {figure['high']:,.{digits}f}]"


def memory_line(reading: Mapping[str, float]) -> str:
    """After how many requests, and MB by process."""
    held = "  ".join(f"{name} {value:,.1f} MB" for name, value in reading.items() if name != "requests")
    return f"after {reading['requests']:>9,} requests: {held}"


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """Raises UserError: an argument is out of bounds."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serving", description=__doc__)
    parser.add_argument("--runs", type=int, default=3, help="with servers started anew for each (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=5, help="of each point in each round (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=2, help="of a run: cases take turns (default: %(default)s)")
    parser.add_argument("--concurrency", type=int, nargs="+", default=[1, 8, 32], help="default: 1 8 32")
    parser.add_argument("--soak", type=int, default=0, metavar="N", help="last, watch memory over N requests")
    parser.add_argument("--quick", action="store_true", help="a small service, briefly; proves nothing, writes nothing")
    arguments = parser.parse_args(argv)
    for name in ("runs", "seconds", "rounds", "concurrency"):
        value = getattr(arguments, name)
        least = min(value) if isinstance(value, list) else value
        if not least >= 1:
            raise UserError(f"--{name} is {least:g}; expected at least 1")
    if arguments.soak < 0:
        raise UserError(f"--soak is {arguments.soak}; expected 0 or more requests")
    if arguments.quick:
        arguments.seconds, arguments.rounds, arguments.concurrency = 1, 1, [1, 8]
    return arguments


@exits_cleanly
def main(argv: list[str] | None = None) -> int:
    arguments = parse_arguments(argv)
    if _load.lacks_programs("serving"):
        return 0
    _load.keep_to_cores()
    size, steps = (QUICK_SIZE, QUICK_STEPS) if arguments.quick else (Size(), STEPS)
    levels = sorted(set(arguments.concurrency))
    settings = params.load(ROOT / "params.yaml")
    runs, readings = [], []
    with tempfile.TemporaryDirectory(prefix="tidegate-bench-") as folder:
        features = _synthetic.features(size, settings)
        artifact = _synthetic.artifact(Path(folder), features, size, settings, steps)
        for number in range(1, arguments.runs + 1):
            print(f"run {number} of {arguments.runs}", flush=True)
            home = Path(folder) / f"run-{number}"
            kept = {"cache_seconds": CACHE_SECONDS, "stale_seconds": CACHE_SECONDS}
            with ExitStack() as stack:
                endpoints, chosen = stack.enter_context(_load.model_servers(home, artifact, features))
                endpoints[EDGE] = stack.enter_context(_load.edge_server(home / "edge", cache="off"))
                endpoints[CACHED] = stack.enter_context(_load.edge_server(home / "cached", **kept))
                bench = Bench(endpoints, size.users)
                warm_up(bench)
                runs.append(bench.points(levels, arguments.seconds, arguments.rounds))
                if arguments.soak and number == arguments.runs:
                    readings = soak(bench, arguments.soak)
    measured = figures(runs)
    print("", table(measured), *map(memory_line, readings), sep="\n")
    if arguments.quick:
        print("nothing was written: --quick")
        return 0
    about = {
        "reference": "TorchServe's no-op handler at batch size 1, by wrk from the same machine",
        "service": asdict(size) | {"k": K, "store": "redis", "cores": CORES},
        "settings": chosen,
    }
    about |= {name: getattr(arguments, name) for name in ("runs", "rounds", "seconds")}
    print(f"-> {write('serving', about | measured | {'soak_memory_mb': readings})}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
