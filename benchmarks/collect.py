"""Events per second that the collector acknowledges durably, against a bare HTTP server that reads the same requests.

Collector and sender run on the same cores. The sender builds its requests while it sends, and each event has an id of its
own. At the end, what was acknowledged is compared with what the log holds.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import httpx
import psutil

from benchmarks._load import CORES, free_ports, keep_to_cores
from benchmarks._record import write
from config.command import exits_cleanly
from data.collect.schema import PURPOSES
from data.collect.settings import PREFIX, CollectSettings
from data.collect.sqlite_log import SqliteLogReader
from data.collect.write_keys import WriteKey
from web.keys import add_key, create

BATCH, SINGLE, PACED, FLOOR = "batches of 100", "single events", "5,000 events/s", "bare server, batches of 100"
BATCH_EVENTS, PACED_RATE = 100, 5_000
CONNECTIONS = {BATCH: 24, SINGLE: 64, PACED: 8, FLOOR: 8}
RUDDERSTACK = 1_700  # events/s on 2 cores and 8 GB, by its documentation (infrastructure provisioning)
READY_SECONDS = 60
EVENT = (
    '{"type":"track","messageId":"%s-%d","userId":"u%d","anonymousId":"8f14e45f-ceea-467f-ab5b-9d3c1e2a7b10","event":"view",'
    '"properties":{"item_id":"i%d","position":%d,"request_id":"c4ca4238a0b923820dcc509a6f75849b"},"timestamp":"%s",'
    '"context":{"device":{"type":"phone"},"locale":"en-US","timezone":"Europe/Berlin","page":{"path":"/film/%d"}}}'
)
BARE_SERVER = """
async def app(scope, receive, send):
    if scope["type"] == "http":
        while (await receive()).get("more_body"):
            pass
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"{}"})
"""


@dataclass(frozen=True)
class Sent:
    """What one sender saw."""

    events: int  # acknowledged
    other: int  # answers other than 200 with a verdict for each
    seconds: float
    milliseconds: list[float]  # of each request


def send(url: str, key: str, case: str, seconds: float, run: str) -> Sent:
    """Send events for some seconds, in a process of its own."""
    keep_to_cores()
    return asyncio.run(_Sender(url, key, case, run).send(seconds))


class _Sender:
    def __init__(self, url: str, key: str, case: str, run: str) -> None:
        self._host, _, port = url.removeprefix("http://").partition(":")
        self._port, self._key, self._case, self._run = int(port), key, case, run
        self._events = 1 if case == SINGLE else BATCH_EVENTS
        self._number = self._accepted = self._other = 0
        self._times: list[float] = []

    async def send(self, seconds: float) -> Sent:
        begun = time.perf_counter()
        await asyncio.gather(*(self._connection(begun, begun + seconds) for _ in range(CONNECTIONS[self._case])))
        return Sent(self._accepted, self._other, time.perf_counter() - begun, self._times)

    async def _connection(self, begun: float, end: float) -> None:
        reader, writer = await asyncio.open_connection(self._host, self._port)
        while (now := time.perf_counter()) < end:
            due = begun + self._number / PACED_RATE
            request = self._request()
            if self._case == PACED:  # a batch counts from the time at which it was due
                now = due
                await asyncio.sleep(max(0.0, due - time.perf_counter()))
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0])
            body = await reader.readexactly(length)
            self._times.append((time.perf_counter() - now) * 1e3)
            accepted = body.count(b'"accepted"') if self._case != FLOOR else self._events
            self._accepted += accepted
            self._other += accepted != self._events
        writer.close()

    def _request(self) -> bytes:
        first = self._number
        self._number += self._events
        moment = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        events = [
            EVENT % (self._run, number, number % 10_000, number % 997, number % 20, moment, number % 997)
            for number in range(first, first + self._events)
        ]
        body = events[0] if self._case == SINGLE else f'{{"batch":[{",".join(events)}],"sentAt":"{moment}"}}'
        path = "/v1/track" if self._case == SINGLE else "/v1/batch"
        head = f"POST {path} HTTP/1.1\r\nhost: bench\r\nauthorization: Bearer {self._key}\r\n"
        return f"{head}content-length: {len(body)}\r\n\r\n{body}".encode()


@contextmanager
def collector(home: Path) -> Iterator[tuple[str, str, psutil.Process]]:
    """Run the collector without a rate limit; its URL, a write key and its process."""
    port, metrics_port = free_ports(2)
    text, key = create(WriteKey, None, source="bench", purposes=PURPOSES)
    add_key(CollectSettings(home=home).write_keys, key)
    values = {
        "home": home,
        "port": port,
        "metrics_port": metrics_port,
        "events_per_second": 1e9,
        "bytes_per_second": 1e12,
    }
    environ = os.environ | {PREFIX + name.upper(): str(value) for name, value in values.items()}
    with _running([sys.executable, "-m", "data.collect.serve"], environ, f"http://127.0.0.1:{port}/readyz") as process:
        yield f"http://127.0.0.1:{port}", text, process


@contextmanager
def bare_server(folder: Path) -> Iterator[tuple[str, str, psutil.Process]]:
    """Run uvicorn with an application that reads each body and answers nothing."""
    (folder / "bare_server.py").write_text(BARE_SERVER, encoding="utf-8")
    (port,) = free_ports(1)
    command = [sys.executable, "-m", "uvicorn", "bare_server:app", "--app-dir", str(folder), "--port", str(port)]
    options = ["--loop", "uvloop", "--http", "httptools", "--no-access-log", "--lifespan", "off"]
    with _running(command + options, dict(os.environ), f"http://127.0.0.1:{port}/") as process:
        yield f"http://127.0.0.1:{port}", "none", process


@contextmanager
def _running(command: list[str], environ: dict[str, str], url: str) -> Iterator[psutil.Process]:
    process = subprocess.Popen(command, env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + READY_SECONDS
        while True:
            with suppress(httpx.HTTPError):
                if httpx.get(url, trust_env=False).status_code == 200:
                    break
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{' '.join(command[1:4])} did not become ready")
            time.sleep(0.1)
        yield psutil.Process(process.pid)
    finally:
        process.terminate()
        process.wait()


def measure(seconds: float, runs: int) -> dict[str, list[dict[str, float]]]:
    """The figures of each run of each case. Cases take turns, so that a slow spell of the machine meets all."""
    found: dict[str, list[dict[str, float]]] = {BATCH: [], SINGLE: [], PACED: [], FLOOR: []}
    with tempfile.TemporaryDirectory() as folder, ProcessPoolExecutor(1, get_context("spawn")) as pool:
        home = Path(folder) / "collect"
        with collector(home) as served, bare_server(Path(folder)) as bare:
            for run in range(runs):
                for case, figures in found.items():
                    url, key, process = bare if case == FLOOR else served
                    cpu = sum(process.cpu_times()[:2])
                    sent = pool.submit(send, url, key, case, seconds, f"{run}-{CONNECTIONS[case]}-{case[:1]}").result()
                    figures.append(_figures(sent, sum(process.cpu_times()[:2]) - cpu, process))
                    print(
                        f"{case}: {figures[-1]['events_per_second']:,.0f} events/s, p99 {figures[-1]['p99_ms']} ms",
                        flush=True,
                    )
        acknowledged = sum(one["events"] for case, figures in found.items() if case != FLOOR for one in figures)
        _check_log(home, int(acknowledged))
    return found


def _figures(sent: Sent, cpu_seconds: float, process: psutil.Process) -> dict[str, float]:
    ordered = sorted(sent.milliseconds)
    return {
        "events": sent.events,
        "events_per_second": round(sent.events / sent.seconds),
        "p50_ms": round(statistics.median(ordered), 2),
        "p99_ms": round(ordered[int(0.99 * (len(ordered) - 1))], 2),
        "server_cpu_us_per_event": round(cpu_seconds / max(1, sent.events) * 1e6, 1),
        "server_mb": round(process.memory_info().rss / 1e6, 1),
        "bad_answers": sent.other,
    }


def soak(events: int) -> list[dict[str, float]]:
    """Memory of the collector while it takes so many events, in ten steps."""
    steps = []
    with tempfile.TemporaryDirectory() as folder, ProcessPoolExecutor(1, get_context("spawn")) as pool:
        home, total = Path(folder) / "collect", 0
        with collector(home) as (url, key, process):
            while total < events:
                sent = pool.submit(send, url, key, BATCH, 20, f"soak-{len(steps)}").result()
                total += sent.events
                steps.append({"events": total, "server_mb": round(process.memory_info().rss / 1e6, 1)})
                print(f"{total:,} events: {steps[-1]['server_mb']} MB", flush=True)
        _check_log(home, total)
    return steps


def _check_log(home: Path, acknowledged: int) -> None:
    ids = set()
    count = 0
    for message in SqliteLogReader(CollectSettings(home=home).log_folder).read():
        ids.add(message.message_id)
        count += 1
    if not len(ids) == count == acknowledged:
        raise RuntimeError(f"{acknowledged} events were acknowledged; the log holds {count}, {len(ids)} different ones")


@exits_cleanly
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.collect", description=__doc__)
    parser.add_argument("--seconds", type=float, default=10, help="of each case in each run; default: %(default)s")
    parser.add_argument("--runs", type=int, default=3, help="default: %(default)s")
    parser.add_argument("--soak", type=int, default=0, metavar="EVENTS", help="also measure memory over so many events")
    arguments = parser.parse_args(argv)
    keep_to_cores()
    found = measure(arguments.seconds, arguments.runs)
    summary = {
        case: {name: _spread([one[name] for one in figures]) for name in figures[0]} for case, figures in found.items()
    }
    for case, figures in summary.items():
        rate, p99, cpu = (figures[name] for name in ("events_per_second", "p99_ms", "server_cpu_us_per_event"))
        print(f"{case:<30}{rate['median']:>10,.0f} [{rate['low']:,.0f}, {rate['high']:,.0f}] events/s"
              f"   p99 {p99['median']:.1f} ms   {cpu['median']:.1f} µs of CPU an event")  # fmt: skip
    ratio = round(summary[BATCH]["events_per_second"]["median"] / summary[FLOOR]["events_per_second"]["median"], 3)
    print(f"ratio to the bare server: {ratio}; RudderStack's documentation names {RUDDERSTACK:,} events/s on 2 cores")
    figures = {
        "cores": CORES,
        "reference": FLOOR,
        "ratio": ratio,
        "rudderstack_documented": RUDDERSTACK,
        "cases": summary,
    }
    if arguments.soak:
        figures["soak"] = soak(arguments.soak)
    print(f"written to {write('collect', figures)}")
    return 0


def _spread(values: list[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "low": min(values), "high": max(values)}


if __name__ == "__main__":
    sys.exit(main())
