"""A catalog of a million items: the endpoint against TorchServe's no-op handler, and the index against exact scoring.

The vectors extrapolate a trained model (`benchmarks/_synthetic.py`). The artifact has the index that export builds, and is
served with profiles from Redis.
"""

from __future__ import annotations

import argparse
import resource
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from benchmarks import _load, _synthetic
from benchmarks._load import CORES, HANDLER, NOOP, WARM_SECONDS, K, Points
from benchmarks._record import write
from config import params
from config.command import exits_cleanly
from config.paths import ROOT
from data.times import to_iso
from features.feature_files import Features
from serving.worker.recommender import BATCH_ROWS, Recommender
from training.threads import one_thread

TRAINED_ITEMS, USERS, WIDTH = 10_000, 12_000, 64
LAG_MS, RECALL = 10.0, 0.99  # the targets, at 8 requests in flight
IN_FLIGHT, ROUNDS = (1, 8), 3
TIMED_BATCHES = 64


def export(home: Path, items: int, steps: int) -> tuple[Features, dict]:
    """Train, grow and export the artifact into `home`; return what it was trained on, and the size and cost of the export."""
    settings = params.load(ROOT / "params.yaml")
    features, fitted = _synthetic.train(TRAINED_ITEMS, USERS, steps, WIDTH)
    started = time.perf_counter()
    manifest = _synthetic.export_grown(home, features, fitted, items, settings)
    about = {
        "export_seconds": round(time.perf_counter() - started, 1),
        "export_peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        "artifact_mb": round(sum(one.stat().st_size for one in (home / "artifact").iterdir()) / 1e6, 1),
        "index": manifest["index"],
    }
    return features, about


def batch_times(artifact: Path, features: Features) -> dict[str, float]:
    """Median milliseconds of a batch of requests on one thread, through the index and with exact scoring."""
    log, names, moment = features.log, features.vocabulary, to_iso(features.cut_us)
    requests = []
    for user in range(BATCH_ROWS * TIMED_BATCHES):
        rows = range(log.offsets[user], log.offsets[user + 1])
        history = [{"item_id": names.id(log.items[row]), "event_time": to_iso(int(log.times[row]))} for row in rows]
        requests.append({"history": history, "k": K, "time": moment})
    recommender = Recommender.load(artifact)
    times: dict[str, list[float]] = {"index": [], "exact": []}
    with one_thread():
        for way, milliseconds in times.items():
            for begin in range(0, len(requests), BATCH_ROWS):
                started = time.perf_counter()
                recommender.recommend(requests[begin : begin + BATCH_ROWS])
                milliseconds.append(1e3 * (time.perf_counter() - started))
            recommender.retrieval = None
            print(f"batches of {BATCH_ROWS}, {way}: {median(milliseconds):.1f} ms", flush=True)
    return {way: round(median(milliseconds), 2) for way, milliseconds in times.items()}


def report(points: Points, recall: float) -> dict:
    """Print the points and the targets; return them for the result file."""
    lag = points[HANDLER, 8].p99_ms - points[NOOP, 8].p99_ms
    rows = []
    for (case, level), point in points.items():
        rows.append({
            "case": case, "concurrency": level, "requests_per_second": round(point.per_second, 1),
            "p50_ms": point.p50_ms, "p99_ms": point.p99_ms, "requests": point.requests, "failed": point.bad,
        })  # fmt: skip
        print(", ".join(f"{name} {value}" for name, value in rows[-1].items()))
    met = "met" if lag <= LAG_MS else "MISSED"
    print(f"{met}: p99 of the handler minus the no-op's at 8: {lag:.2f} ms (at most {LAG_MS:g})")
    print(f"{'met' if recall >= RECALL else 'MISSED'}: recall@{K} of exact: {recall:.4f} (at least {RECALL})")
    return {"points": rows, "p99_lag_ms": round(lag, 3)}


@exits_cleanly
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.large_catalog", description=__doc__)
    parser.add_argument("--items", type=int, default=1_000_000, help="default: %(default)s")
    parser.add_argument("--steps", type=int, default=600, help="of training; default: %(default)s")
    parser.add_argument("--seconds", type=float, default=5, help="of each point in each round (default: %(default)s)")
    arguments = parser.parse_args(argv)
    if _load.lacks_programs("large_catalog"):
        return 0
    _load.keep_to_cores()
    with tempfile.TemporaryDirectory(prefix="tidegate-bench-") as folder:
        home = Path(folder)
        features, about = export(home, arguments.items, arguments.steps)
        print(f"exported {arguments.items:,} items: {about}", flush=True)
        about["batch_ms"] = batch_times(home / "artifact", features)
        with _load.model_servers(home, home / "artifact", features) as (endpoints, _):
            bench = _load.Bench(endpoints, USERS)
            for case in endpoints:
                bench.point(case, max(IN_FLIGHT), WARM_SECONDS)
            points = bench.points(IN_FLIGHT, arguments.seconds, ROUNDS)
            about["memory_mb"] = _load.memory(sum(one.requests for one in points.values()))
    service = {"items": arguments.items, "users": USERS, "width": WIDTH, "k": K, "store": "redis", "cores": CORES}
    figures = {"service": service, "seconds": arguments.seconds, "rounds": ROUNDS}
    figures |= report(points, about["index"][f"recall@{K}"]) | about
    print(f"memory: {about['memory_mb']}\nwritten to {write('large_catalog', figures)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
