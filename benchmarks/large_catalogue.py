"""The endpoint with a catalogue of a million items, beside TorchServe's no-op handler in the same run.

The vectors are those of a trained model, extrapolated (`benchmarks/_synthetic.py`), exported with the index that an
export builds, and served with profiles from Redis.
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


def exported(home: Path, items: int, steps: int) -> tuple[_synthetic.Trained, dict]:
    """Train, grow and export; the artifact lies in `home`, and the dict says what it is and what it took."""
    settings = params.load(ROOT / "params.yaml")
    trained = _synthetic.train(TRAINED_ITEMS, USERS, steps, WIDTH)
    begun = time.perf_counter()
    manifest = _synthetic.export_grown(home, trained, items, settings)
    about = {
        "export_seconds": round(time.perf_counter() - begun, 1),
        "export_peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        "artifact_mb": round(sum(one.stat().st_size for one in (home / "artifact").iterdir()) / 1e6, 1),
        "index": manifest["index"],
    }
    return trained, about


def served(stack: ExitStack, home: Path, trained: _synthetic.Trained) -> tuple[dict[str, Target], ServerSettings]:
    """Start Redis with everybody's profile, and TorchServe with the artifact and the no-op."""
    url = store_profiles(stack, trained.features, params.load(ROOT / "params.yaml"))
    stack.enter_context(_load.environment(home, url))
    settings = stack.enter_context(_load.running(home / "artifact"))
    return {
        NOOP: _load.target(settings, _load.NOOP, "OK"),
        HANDLER: _load.target(settings, _synthetic.NAME, _load.PERSONAL),
    }, settings


def measured(targets: dict[str, Target], seconds: float) -> dict[tuple[str, int], Load]:
    """(case, in flight) -> what wrk saw, after a warm-up; cases take turns."""
    for target in targets.values():
        load(target, max(IN_FLIGHT), WARM_SECONDS, USERS, K)
    found: dict[tuple[str, int], list[Load]] = {(case, level): [] for level in IN_FLIGHT for case in targets}
    for level in IN_FLIGHT:
        for case, target in [*targets.items()] * ROUNDS:
            found[case, level].append(load(target, level, seconds, USERS, K))
    return {point: pooled(loads) for point, loads in found.items()}


def told(points: dict[tuple[str, int], Load], about: dict) -> dict:
    """What the file says, targets included; printed too."""
    lag = points[HANDLER, 8].p99_ms - points[NOOP, 8].p99_ms
    recall = about["index"][f"recall@{K}"]
    for (case, level), point in points.items():
        print(
            f"{case:<8} at {level}: {point.per_second:,.0f} requests/s, p50 {point.p50_ms:.2f} ms, "
            f"p99 {point.p99_ms:.2f} ms, {point.bad} bad"
        )
    print(
        f"{'met' if lag <= LAG_MS else 'MISSED'}: handler's p99 less the no-op's at 8: {lag:.2f} ms (at most {LAG_MS:g})"
    )
    print(f"{'met' if recall >= RECALL else 'MISSED'}: recall@{K} of exact: {recall:.4f} (at least {RECALL})")
    return {
        "points": [
            {
                "case": case, "concurrency": level, "requests_per_second": round(point.per_second, 1),
                "p50_ms": point.p50_ms, "p99_ms": point.p99_ms, "requests": point.requests, "bad": point.bad,
            }
            for (case, level), point in points.items()
        ],
        "p99_lag_ms": round(lag, 3),
    }  # fmt: skip


@exits_cleanly
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.large_catalogue", description=__doc__.splitlines()[0])
    parser.add_argument("--items", type=int, default=1_000_000, help="default: %(default)s")
    parser.add_argument("--steps", type=int, default=600, help="of training; default: %(default)s")
    parser.add_argument(
        "--seconds", type=float, default=5, help="of each point in each of 3 rounds (default: %(default)s)"
    )
    given = parser.parse_args(argv)
    if lacks("large_catalogue"):
        return 0
    keep_to_cores()
    with ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tidegate-bench-")))
        trained, about = exported(home, given.items, given.steps)
        print(f"exported {given.items:,} items: {about}", flush=True)
        targets, settings = served(stack, home, trained)
        print("serving", flush=True)
        points = measured(targets, given.seconds)
        about["memory_mb"] = memory(
            sum(one.requests for one in points.values()), processes_of(settings, _synthetic.NAME)
        )
    found = told(points, about) | about
    service = {"items": given.items, "users": USERS, "width": WIDTH, "k": K, "store": "redis", "cores": CORES}
    print(f"memory: {about['memory_mb']}")
    print(f"-> {write('large_catalogue', {'service': service, 'seconds': given.seconds, 'rounds': ROUNDS, **found})}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
