"""Reading a batch of profiles from the online store, decoded and checked, against a bare MGET of the same bytes."""

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

T = 1_767_225_600_000_000
NAMESPACE = "bench"


def profile(user: int, events: int) -> Profile:
    """As real ones: ids of 32 digits, as ingest makes them, and a few traits."""
    history = [
        Event(T + at * HOUR, f"{user:016x}{at:016x}", T + at * HOUR, f"m{at * 37:05d}", "play") for at in range(events)
    ]
    traits = {
        name: TimedValue(T, "0" * 32, T, value) for name, value in (("age", 31), ("plan", "free"), ("country", "NL"))
    }
    return make_profile(f"u{user:06d}", history, traits)


def timed(work: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Milliseconds of each call, in turns, so that whatever else the machine does weighs on all alike."""
    took: dict[str, list[float]] = {name: [] for name in work}
    turns = list(work.items())
    for number in range(rounds + 20):
        turns.append(turns.pop(0))  # nobody always follows the same one, whose work may leave a cache or a core warm
        for name, call in turns:
            begun = time.perf_counter()
            call()
            if number >= 20:  # warm
                took[name].append((time.perf_counter() - begun) * 1e3)
    return took


def measure(url: str, folder: Path, users: int, events: int, rounds: int) -> tuple[dict[str, list[float]], int]:
    """Milliseconds of a batch by each way, and the bytes of one."""
    profiles = [profile(user, events) for user in range(users)]
    names, moments = [each.user_id for each in profiles], [T + 1000 * HOUR] * users
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
    return timed(work, rounds), sum(map(len, raw))


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.online_store", description=__doc__)
    parser.add_argument("--users", type=int, default=32, help="of a batch (default: %(default)s)")
    parser.add_argument("--events", type=int, default=50, help="of each (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=1000, help="default: %(default)s")
    arguments = parser.parse_args(argv)
    if shutil.which("redis-server") is None:
        print("online_store: there is no redis-server on the path (Debian: apt-get install redis-server); not measured")
        return 0
    with redis_server() as url, tempfile.TemporaryDirectory() as folder:
        took, size = measure(url, Path(folder), arguments.users, arguments.events, arguments.rounds)
    # By the fastest call: what the work takes where nothing else runs, as Python's timeit has it.
    best = {name: min(each) for name, each in took.items()}
    ratio = {name: round(best["bare MGET"] / best[name], 3) for name in ("redis", "sqlite")}
    path = write("online_store", {
        "users": arguments.users, "events": arguments.events, "rounds": arguments.rounds, "bytes": size,
        "reference": "bare MGET of the same bytes, redis-py with hiredis, loopback", "ratio": ratio,
        "best_ms": {name: round(value, 3) for name, value in best.items()},
        "p50_ms": {name: round(statistics.median(each), 3) for name, each in took.items()},
        "p99_ms": {name: round(statistics.quantiles(each, n=100)[98], 3) for name, each in took.items()},
    })  # fmt: skip
    print(
        f"online_store: {arguments.users} profiles of {arguments.events} events, {size / 1e3:.0f} kB, at best: "
        + ", ".join(f"{name} {value:.2f} ms" for name, value in best.items())
        + f"; {ratio['redis']:.2f} and {ratio['sqlite']:.2f} of the bare MGET's speed -> {path}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
