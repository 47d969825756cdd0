"""The endpoint with a catalog of a million items, against TorchServe's no-op handler of the same run.

The vectors extrapolate a trained model (`benchmarks/_synthetic.py`). The artifact has the index that export builds, and is
served with profiles from Redis.
"""

from __future__ import annotations

import argparse
import resource
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from benchmarks import _load, _synthetic
from benchmarks._load import Load, Target, load, pooled
from benchmarks._record import write
from benchmarks._serving_report import HANDLER, NOOP
from benchmarks.serving import CORES, WARM_SECONDS, K, keep_to_cores, lacks, memory, processes_of, store_profiles
from config import params
from config.command import exits_cleanly
from config.paths import ROOT
from serving.settings import ServerSettings

TRAINED_ITEMS, USERS, WIDTH = 10_000, 12_000, 64
LAG_MS, RECALL = 10.0, 0.99  # the targets, at 8 requests in flight
IN_FLIGHT, ROUNDS = (1, 8), 3


def export(home: Path, items: int, steps: int) -> tuple[_synthetic.TrainedModel, dict]:
    """Train, grow and export the artifact into `home`; return the model, and the size and cost of the export."""
    settings = params.load(ROOT / "params.yaml")
    trained = _synthetic.train(TRAINED_ITEMS, USERS, steps, WIDTH)
    started = time.perf_counter()
    manifest = _synthetic.export_grown(home, trained, items, settings)
    about = {
        "export_seconds": round(time.perf_counter() - started, 1),
        "export_peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        "artifact_mb": round(sum(one.stat().st_size for one in (home / "artifact").iterdir()) / 1e6, 1),
        "index": manifest["index"],
    }
    return trained, about


def start_servers(
    stack: ExitStack, home: Path, trained: _synthetic.TrainedModel
) -> tuple[dict[str, Target], ServerSettings]:
    """Start Redis with all profiles, and TorchServe with the artifact and the no-op handler."""
    url = store_profiles(stack, trained.features, params.load(ROOT / "params.yaml"))
    stack.enter_context(_load.server_environment(home, url))
    settings = stack.enter_context(_load.torchserve_server(home / "artifact"))
    return {
        NOOP: _load.model_target(settings, _load.NOOP, "OK"),
        HANDLER: _load.model_target(settings, _synthetic.NAME, _load.PERSONAL),
    }, settings


def measure(targets: dict[str, Target], seconds: float) -> dict[tuple[str, int], Load]:
    """(case, requests in flight) -> load, after a warm-up; cases take turns."""
    for target in targets.values():
        load(target, max(IN_FLIGHT), WARM_SECONDS, USERS, K)
    loads: dict[tuple[str, int], list[Load]] = {(case, level): [] for level in IN_FLIGHT for case in targets}
    for level in IN_FLIGHT:
        for case, target in [*targets.items()] * ROUNDS:
            loads[case, level].append(load(target, level, seconds, USERS, K))
    return {point: pooled(rounds) for point, rounds in loads.items()}


def report(points: dict[tuple[str, int], Load], about: dict) -> dict:
    """Print the points and the targets; return them for the result file."""
    lag = points[HANDLER, 8].p99_ms - points[NOOP, 8].p99_ms
    recall = about["index"][f"recall@{K}"]
    for (case, level), point in points.items():
        print(
            f"{case:<8} at {level}: {point.per_second:,.0f} requests/s, p50 {point.p50_ms:.2f} ms, "
            f"p99 {point.p99_ms:.2f} ms, {point.bad} failed"
        )
    print(
        f"{'met' if lag <= LAG_MS else 'MISSED'}: p99 of the handler minus the no-op's at 8: {lag:.2f} ms (at most {LAG_MS:g})"
    )
    print(f"{'met' if recall >= RECALL else 'MISSED'}: recall@{K} of exact: {recall:.4f} (at least {RECALL})")
    return {
        "points": [
            {
                "case": case, "concurrency": level, "requests_per_second": round(point.per_second, 1),
                "p50_ms": point.p50_ms, "p99_ms": point.p99_ms, "requests": point.requests, "failed": point.bad,
            }
            for (case, level), point in points.items()
        ],
        "p99_lag_ms": round(lag, 3),
    }  # fmt: skip


@exits_cleanly
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.large_catalog", description=__doc__.splitlines()[0])
    parser.add_argument("--items", type=int, default=1_000_000, help="default: %(default)s")
    parser.add_argument("--steps", type=int, default=600, help="of training; default: %(default)s")
    parser.add_argument(
        "--seconds", type=float, default=5, help="of each point in each of 3 rounds (default: %(default)s)"
    )
    arguments = parser.parse_args(argv)
    if lacks("large_catalog"):
        return 0
    keep_to_cores()
    with ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tidegate-bench-")))
        trained, about = export(home, arguments.items, arguments.steps)
        print(f"exported {arguments.items:,} items: {about}", flush=True)
        targets, settings = start_servers(stack, home, trained)
        print("serving", flush=True)
        points = measure(targets, arguments.seconds)
        about["memory_mb"] = memory(
            sum(one.requests for one in points.values()), processes_of(settings, _synthetic.NAME)
        )
    figures = report(points, about) | about
    service = {"items": arguments.items, "users": USERS, "width": WIDTH, "k": K, "store": "redis", "cores": CORES}
    print(f"memory: {about['memory_mb']}")
    print(
        f"written to {write('large_catalog', {'service': service, 'seconds': arguments.seconds, 'rounds': ROUNDS, **figures})}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
