"""What one hostile user key costs everybody else: latency of a normal client with it, relative to the same run without it.

The normal client keeps some requests in flight. The hostile one has a key for one user, and the edge its default limits for
such keys. It sends faster than these limits, and does not wait when it is told to.
"""

from __future__ import annotations

import argparse
import json
import socket
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from urllib.parse import urlsplit

from benchmarks import _load, _synthetic
from benchmarks._load import CORES, Bench, Endpoint, K, Load
from benchmarks._record import write
from benchmarks._synthetic import Size
from benchmarks.serving import EDGE, QUICK_SIZE, QUICK_STEPS, STEPS, Spread, spread
from config import params
from config.command import UserError, exits_cleanly
from config.paths import ROOT
from serving.edge import keys
from serving.edge.settings import EdgeSettings
from web.keys import add_key

ALONE = "alone"
CONCURRENCY = 8
PER_SECOND = 50  # of the hostile client's requests
CONNECTIONS = 2000
MEGABYTE = 1_000_000
WAIT_SECONDS = 5
ROW = "{:<22}{:>22} {:>22} {:>20} {:>20} {:>6}  {}"

Points = dict[str, Load]  # one run: case -> what the normal client measured
Attack = Callable[[Endpoint, threading.Event], Counter]


def long_histories(endpoint: Endpoint, stop: threading.Event) -> Counter:
    """Bodies as long as a user's key may send, each with another history, so that no cached answer helps."""
    most = EdgeSettings.model_fields["user_max_body_bytes"].default
    event = {"item_id": "i000000", "event_time": "2026-01-01T00:00:00Z"}
    events = [event] * ((most - 200) // len(json.dumps(event, separators=(",", ":")) + ","))

    def body(number: int) -> bytes:
        own = [event | {"event_time": f"2026-01-01T00:{number // 60 % 60:02d}:{number % 60:02d}Z"}, *events]
        return json.dumps({"history": own, "k": 1000}, separators=(",", ":")).encode()

    return _send(endpoint, body, stop)


def empty_objects(endpoint: Endpoint, stop: threading.Event) -> Counter:
    """A megabyte of `{}` each time."""
    content = b"[" + b"{}," * (MEGABYTE // 3 - 1) + b"{}]"
    return _send(endpoint, lambda number: content, stop)


def small_objects(endpoint: Endpoint, stop: threading.Event) -> Counter:
    """As many `{}` as a user's body may hold bytes."""
    content = b"[" + b"{}," * (EdgeSettings.model_fields["user_max_body_bytes"].default // 3 - 1) + b"{}]"
    return _send(endpoint, lambda number: content, stop)


def silent_connections(endpoint: Endpoint, stop: threading.Event) -> Counter:
    """Open connections and say nothing; when there are many, the oldest is closed and another one opened."""
    opened: list[socket.socket] = []
    seen: Counter = Counter()
    try:
        while not stop.is_set():
            with suppress(OSError):
                opened.append(socket.create_connection(_address(endpoint), WAIT_SECONDS))
                seen["opened"] += 1
            if len(opened) >= CONNECTIONS:
                opened.pop(0).close()
                stop.wait(1 / PER_SECOND)
    finally:
        for one in opened:
            one.close()
    return seen


def all_at_once(endpoint: Endpoint, stop: threading.Event) -> Counter:
    """Each of the others, at the same time."""
    seen: Counter = Counter()
    attacks = (long_histories, empty_objects, small_objects, silent_connections)
    crowd = [threading.Thread(target=lambda one=one: seen.update(one(endpoint, stop))) for one in attacks]
    for thread in crowd:
        thread.start()
    for thread in crowd:
        thread.join()
    return seen


ATTACKS: dict[str, Attack] = {
    "long histories": long_histories,
    "megabytes of {}": empty_objects,
    "64 KiB of {}": small_objects,
    "silent connections": silent_connections,
    "all at once": all_at_once,
}


def _send(endpoint: Endpoint, body: Callable[[int], bytes], stop: threading.Event) -> Counter:
    """Post bodies PER_SECOND times a second, on a connection that is opened anew when it is closed; statuses by number."""
    path, seen, number = urlsplit(endpoint.url).path, Counter(), 0
    client = HTTPConnection(*_address(endpoint), timeout=WAIT_SECONDS)
    due = time.monotonic()
    while not stop.is_set():
        try:
            client.request("POST", path, body(number), {"X-API-Key": endpoint.token})
            with client.getresponse() as response:
                response.read()
            seen[str(response.status)] += 1
        except (OSError, HTTPException):
            client.close()
            seen["closed"] += 1
        number += 1
        due = max(due + 1 / PER_SECOND, time.monotonic() - 1)
        stop.wait(max(0.0, due - time.monotonic()))
    client.close()
    return seen


def _address(endpoint: Endpoint) -> tuple[str, int]:
    url = urlsplit(endpoint.url)
    assert url.hostname is not None
    assert url.port is not None
    return url.hostname, url.port


@contextmanager
def under(attack: Attack | None, endpoint: Endpoint, seen: Counter) -> Iterator[None]:
    """Attack inside the block; `seen` gets what came of it."""
    stop = threading.Event()
    thread = threading.Thread(target=lambda: seen.update(attack(endpoint, stop)) if attack else None)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def measure(bench: Bench, hostile: Endpoint, seconds: float, seen: dict[str, Counter]) -> Points:
    """One run: the normal client alone, and under each attack."""
    points = {}
    for case, attack in [(ALONE, None), *ATTACKS.items()]:
        with under(attack, hostile, seen[case]):
            points[case] = one = bench.point(EDGE, CONCURRENCY, seconds)
        print(
            f"{case}: p50 {one.p50_ms:.1f} ms, p99 {one.p99_ms:.1f} ms, {one.bad} bad; {dict(seen[case])}", flush=True
        )
    return points


def figures(runs: Sequence[Points], seen: dict[str, Counter]) -> list[dict]:
    """For each case the normal client's latency, its ratio to that alone in the same run, and the attack's statuses."""

    def latency(case: str, percentile: str) -> dict[str, Spread]:
        def milliseconds(points: Points, which: str) -> float:
            return getattr(points[which], percentile)

        return {
            percentile: spread(runs, lambda points: milliseconds(points, case)),
            f"{percentile}_ratio": spread(
                runs, lambda points: milliseconds(points, case) / milliseconds(points, ALONE)
            ),
        }

    return [
        {"case": case, **latency(case, "p50_ms"), **latency(case, "p99_ms")}
        | {"bad": sum(points[case].bad for points in runs), "attack": dict(sorted(seen[case].items()))}
        for case in runs[0]
    ]


def table(measured: Sequence[dict]) -> str:
    """A line per case: medians, with the range over the runs in brackets."""
    lines = [ROW.format("", "p50 ms", "p99 ms", "p50 ratio", "p99 ratio", "bad", "the attack's answers")]
    for row in measured:
        shown = [
            "{median:,.2f} [{low:,.2f}, {high:,.2f}]".format(**row[name])
            for name in ("p50_ms", "p99_ms", "p50_ms_ratio", "p99_ms_ratio")
        ]
        lines.append(ROW.format(row["case"], *shown, row["bad"], row["attack"]))
    return "\n".join(lines)


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """Raises UserError: an argument is out of bounds."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fairness", description=__doc__)
    parser.add_argument("--runs", type=int, default=3, help="with servers started anew for each (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=10, help="of each case (default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="a small service, briefly; proves nothing, writes nothing")
    arguments = parser.parse_args(argv)
    for name in ("runs", "seconds"):
        if not getattr(arguments, name) >= 1:
            raise UserError(f"--{name} is {getattr(arguments, name):g}; expected at least 1")
    if arguments.quick:
        arguments.runs, arguments.seconds = 1, 2
    return arguments


@exits_cleanly
def main(argv: list[str] | None = None) -> int:
    arguments = parse_arguments(argv)
    if _load.lacks_programs("fairness"):
        return 0
    _load.keep_to_cores()
    size, steps = (QUICK_SIZE, QUICK_STEPS) if arguments.quick else (Size(), STEPS)
    settings = params.load(ROOT / "params.yaml")
    runs: list[Points] = []
    seen: dict[str, Counter] = {case: Counter() for case in (ALONE, *ATTACKS)}
    with tempfile.TemporaryDirectory(prefix="tidegate-bench-") as folder:
        features = _synthetic.features(size, settings)
        artifact = _synthetic.artifact(Path(folder), features, size, settings, steps)
        for number in range(1, arguments.runs + 1):
            print(f"run {number} of {arguments.runs}", flush=True)
            home = Path(folder) / f"run-{number}"
            text, entry = keys.create_key("u000000")
            add_key(home / "edge" / "keys.json", entry)
            with ExitStack() as stack:
                stack.enter_context(_load.model_servers(home, artifact, features))
                normal = stack.enter_context(_load.edge_server(home / "edge", cache="off"))
                bench = Bench({EDGE: normal}, size.users)
                for _ in range(2):
                    bench.point(EDGE, CONCURRENCY, _load.WARM_SECONDS)
                runs.append(measure(bench, Endpoint(normal.url, text, ""), arguments.seconds, seen))
    measured = figures(runs, seen)
    print("", table(measured), sep="\n")
    if arguments.quick:
        print("nothing was written: --quick")
        return 0
    service = asdict(size) | {"k": K, "store": "redis", "cores": CORES, "in_flight": CONCURRENCY}
    about = {"service": service, "attacks_per_second": PER_SECOND, "silent_connections": CONNECTIONS}
    about |= {name: getattr(arguments, name) for name in ("runs", "seconds")}
    print(f"-> {write('fairness', about | {'cases': measured})}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
