"""Read a batch of profiles from the online store, decoded and checked, against a bare MGET of the same bytes."""

from __future__ import annotations

import argparse
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import redis

from benchmarks._load import redis_server
from benchmarks._record import write
from data.columns import HOUR
from features.online.connect import StoreSettings, connect
from features.online.profile import Event, Profile, TimedValue, make_profile
from features.online.records import encode_profile
from features.online.store import Policy

START = 1_767_225_600_000_000  # 2026-01-01T00:00:00Z
NAMESPACE = "bench"


def profile(user: int, events: int) -> Profile:
    """A realistic profile: event ids of 32 digits as from ingest, and a few traits."""
    history = [
        Event(START + at * HOUR, f"{user:016x}{at:016x}", START + at * HOUR, f"m{at * 37:05d}", "play")
        for at in range(events)
    ]
    traits = {"age": 31, "plan": "free", "country": "NL"}
    timed = {name: TimedValue(START, "0" * 32, START, value) for name, value in traits.items()}
    return make_profile(f"u{user:06d}", history, timed)


def call_times(work: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Milliseconds of each call. The calls take turns, so that other load on the machine affects all alike."""
    times: dict[str, list[float]] = {name: [] for name in work}
    turns = list(work.items())
    for number in range(rounds + 20):
        turns.append(turns.pop(0))  # rotate: each call may leave a cache warm for the next one
        for name, call in turns:
            started = time.perf_counter()
            call()
            if number >= 20:  # after the warm-up
                times[name].append((time.perf_counter() - started) * 1e3)
    return times


def measure(url: str, folder: Path, users: int, events: int, rounds: int) -> tuple[dict[str, list[float]], int]:
    """Milliseconds per batch of each way to read, and the bytes of a batch."""
    profiles = [profile(user, events) for user in range(users)]
    names, moments = [each.user_id for each in profiles], [START + 1000 * HOUR] * users
    stores = {"redis": StoreSettings(url), "sqlite": StoreSettings(f"sqlite:///{folder}/store.db")}
    work: dict[str, Callable[[], object]] = {}
    for kind, place in stores.items():
        store = connect(NAMESPACE, place, writing=True)
        store.configure(Policy(1000, None))
        store.upsert(profiles)
        work[kind] = partial(store.read, names, moments)
    client, raw = redis.Redis.from_url(url), [encode_profile(each) for each in profiles]
    keys = [f"bare:{name}" for name in names]
    client.mset(dict(zip(keys, raw, strict=True)))
    work["bare MGET"] = partial(client.mget, keys)
    return call_times(work, rounds), sum(map(len, raw))


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.online_store", description=__doc__)
    parser.add_argument("--users", type=int, default=32, help="of a batch (default: %(default)s)")
    parser.add_argument("--events", type=int, default=50, help="of each (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=1000, help="default: %(default)s")
    arguments = parser.parse_args(argv)
    if shutil.which("redis-server") is None:
        print("skipped online_store: redis-server is not on the path (Debian: apt-get install redis-server)")
        return 0
    with redis_server() as url, tempfile.TemporaryDirectory() as folder:
        times, size = measure(url, Path(folder), arguments.users, arguments.events, arguments.rounds)
    # The fastest call shows what the work costs when nothing else runs, as in Python's timeit.
    best = {name: min(calls) for name, calls in times.items()}
    ratio = {name: round(best["bare MGET"] / best[name], 3) for name in ("redis", "sqlite")}
    figures = vars(arguments) | {
        "bytes": size,
        "reference": "bare MGET of the same bytes, redis-py with hiredis, loopback",
        "ratio": ratio,
        "best_ms": {name: round(value, 3) for name, value in best.items()},
        "p50_ms": {name: round(statistics.median(calls), 3) for name, calls in times.items()},
        "p99_ms": {name: round(statistics.quantiles(calls, n=100)[98], 3) for name, calls in times.items()},
    }
    print(f"{size / 1e3:.0f} kB at best in ms: {figures['best_ms']}; ratio to bare MGET: {ratio}")
    print(f"written to {write('online_store', figures)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
