"""Start the servers of a benchmark, and put them under load with wrk."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from unittest.mock import patch

import httpx
import psutil
import redis
from redis.backoff import ConstantBackoff
from redis.retry import Retry

from benchmarks import _synthetic
from benchmarks._synthetic import NAME
from config import params
from config.paths import ROOT
from config.processes import END_WITH_PARENT
from features.feature_files import Features
from features.online import connect
from features.online.store import Policy
from serving import settings as torchserve
from serving.artifact.archive import INNER_MANIFEST, build_archive
from serving.edge import keys
from serving.edge.settings import variable as edge_variable
from serving.settings import PORTS, ServerSettings, variable
from serving.torchserve import server
from serving.torchserve.client import TorchServe, prediction_path
from web.keys import add_key

SCRIPT = Path(__file__).with_suffix(".lua")
PROGRAMS = ("wrk", "redis-server")  # named like their Debian packages
NOOP, HANDLER = "no-op", "handler"  # cases
K = 20
CORES = 2
WARM_SECONDS = 2
TIMEOUT_SECONDS = 5  # a request without an answer by then counts as late
REDIS_ATTEMPTS, EDGE_READY_SECONDS = 200, 60
PERSONAL = '"source":"personalized"'  # every personalized answer contains it
NOOP_MODEL = "noop"
NOOP_SOURCE = '''\
"""Answers without doing anything, so that only the server's own time is left."""


def handle(data, context):
    return ["OK"] * len(data or ())
'''


@dataclass(frozen=True)
class Endpoint:
    """Where to post."""

    url: str
    token: str  # sent as `Authorization: Bearer`
    wanted: str  # a text that every good answer contains


@dataclass(frozen=True)
class Load:
    """What wrk measured."""

    requests: int
    seconds: float
    p50_ms: float
    p99_ms: float
    refused: int  # answers whose status was not 200
    other: int  # answers with status 200 that do not contain the wanted text
    broken: int  # connections that failed
    late: int  # requests without an answer in time

    @property
    def per_second(self) -> float:
        return self.requests / self.seconds

    @property
    def bad(self) -> int:
        """Requests without a good answer."""
        return self.refused + self.other + self.broken + self.late


Points = dict[tuple[str, int], Load]  # one run: (case, concurrency) -> what was measured


def pooled(rounds: Sequence[Load]) -> Load:
    """Several rounds as one: sums of counts and seconds, and the median of each percentile."""
    combined = {name: median if name.endswith("_ms") else sum for name in vars(rounds[0])}
    return Load(**{name: combine(getattr(one, name) for one in rounds) for name, combine in combined.items()})


def load(endpoint: Endpoint, concurrency: int, seconds: float, users: int, first: int = 0) -> Load:
    """Keep `concurrency` requests in flight for some seconds, from one thread; users take turns from number `first` on."""
    command = [
        "wrk",
        *("--threads", "1", "--connections", str(concurrency), "--duration", f"{max(1, round(seconds))}s"),
        *("--timeout", f"{TIMEOUT_SECONDS}s", "--script", str(SCRIPT)),
        *("--header", f"Authorization: Bearer {endpoint.token}", "--header", "Content-Type: application/json"),
        endpoint.url,
        *("--", str(users), str(first), str(K), endpoint.wanted),
    ]
    ended = subprocess.run(command, capture_output=True, encoding="utf-8")
    lines = ended.stdout.strip().splitlines()
    if ended.returncode or not lines or not lines[-1].startswith("{"):
        raise RuntimeError(f"wrk of {endpoint.url} failed: {(ended.stderr or ended.stdout).strip()[-300:]}")
    return Load(**json.loads(lines[-1]))


class Bench:
    """The endpoints of one run, by case, whose `users` take turns over all points: no point sees the same few again."""

    def __init__(self, endpoints: dict[str, Endpoint], users: int) -> None:
        self.endpoints, self.users, self._sent = endpoints, users, 0

    def point(self, case: str, concurrency: int, seconds: float) -> Load:
        """Load one case for some seconds."""
        measured = load(self.endpoints[case], concurrency, seconds, self.users, self._sent)
        self._sent += measured.requests
        return measured

    def points(self, levels: Sequence[int], seconds: float, rounds: int) -> Points:
        """What was measured. Cases take turns, so that a slow spell of the machine meets all."""
        measured: dict[tuple[str, int], list[Load]] = {(case, level): [] for level in levels for case in self.endpoints}
        for level in levels:
            for case in [*self.endpoints] * rounds:
                one = self.point(case, level, seconds)
                measured[case, level].append(one)
                print(f"{case} at {level}: {one.per_second:,.0f} requests/s, {one.bad} bad", flush=True)
        return {point: pooled(loads) for point, loads in measured.items()}


def lacks_programs(benchmark: str) -> bool:
    """Whether a program is missing without which nothing can be measured; prints which.

    No error: `make bench` goes on to what can be measured.
    """
    for program in PROGRAMS:
        if shutil.which(program) is None:
            print(f"{benchmark}: {program} is not on the path (Debian: apt-get install {program}); not measured")
            return True
    return False


def keep_to_cores() -> None:
    """Run on CORES cores, and every server that is started after it, so that machines can be compared."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:CORES])


@contextmanager
def redis_server() -> Iterator[str]:
    """Run a redis-server without persistence on a free port; gives its URL."""
    port = free_ports(1)[0]
    with tempfile.TemporaryDirectory() as folder:
        options = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", folder]
        process = subprocess.Popen(["redis-server", *options], stdout=subprocess.DEVNULL)
        try:
            waiting = Retry(ConstantBackoff(0.05), REDIS_ATTEMPTS)
            redis.Redis(port=port, retry=waiting, retry_on_error=[redis.ConnectionError]).ping()
            yield f"redis://127.0.0.1:{port}/0"
        finally:
            process.terminate()
            process.wait()


def free_ports(count: int) -> list[int]:
    """Ports of loopback that are free now."""
    probes = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports


@contextmanager
def model_servers(home: Path, artifact: Path, features: Features) -> Iterator[tuple[dict[str, Endpoint], dict]]:
    """Run Redis with the profiles of everybody in the features, and TorchServe with the artifact and the no-op handler.

    The artifact is loaded as deploy does, the no-op handler at batch size 1. Servers started inside the block use the
    same folder, ports and store. Yields the endpoints by case, and the settings of the model.
    """
    ports = {variable(field): str(port) for field, port in zip(PORTS, free_ports(len(PORTS)), strict=True)}
    folders = {variable("server_home"): str(home / "torchserve")}
    minutes = {variable("token_minutes"): str(24 * 60)}  # longer than any soak
    with redis_server() as url, patch.dict(os.environ, {connect.STORE_VARIABLE: url} | folders | minutes | ports):
        store = connect.connect(features.description["dataset"], connect.StoreSettings(url), writing=True)
        store.configure(Policy(params.load(ROOT / "params.yaml").online.max_events, None))
        store.upsert(_synthetic.profiles(features))
        store.close()
        settings = torchserve.load()
        chosen = {name: getattr(settings, name) for name in ("workers", "batch_size", "batch_delay_ms")}
        server.start(settings, set, end_with_parent=True)
        try:
            archive = settings.model_store / f"{NAME}.mar"
            build_archive(artifact, archive, NAME)
            _write_noop(settings.model_store / f"{NOOP_MODEL}.mar")
            with TorchServe.from_settings(settings) as client:
                client.register(archive.name, NAME, **chosen)
                client.register(f"{NOOP_MODEL}.mar", NOOP_MODEL)
            endpoints = {NOOP: _endpoint(settings, NOOP_MODEL, "OK"), HANDLER: _endpoint(settings, NAME, PERSONAL)}
            yield endpoints, chosen
        finally:
            server.stop(settings)


def _endpoint(settings: ServerSettings, model: str, wanted: str) -> Endpoint:
    token = json.loads(settings.key_file.read_text(encoding="utf-8"))["inference"]["key"]
    return Endpoint(settings.inference_url + prediction_path(model), token, wanted)


def _write_noop(path: Path) -> None:
    """Write the archive of the handler that does nothing."""
    model = {"modelName": NOOP_MODEL, "modelVersion": "1.0", "handler": "noop_handler.py"}
    manifest = {"createdOn": "01/01/1980 00:00:00", "archiverVersion": "0.12.0", "runtime": "python", "model": model}
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(INNER_MANIFEST, json.dumps(manifest))
        archive.writestr("noop_handler.py", NOOP_SOURCE)


def memory(requests: int) -> dict[str, float]:
    """Resident MB of the worker and of the JVM of the running TorchServe, and after how many requests."""
    settings = torchserve.load()
    frontend = server.find(settings)
    assert frontend is not None
    with TorchServe.from_settings(settings) as client:
        ((worker, *_),) = (about.pids for about in client.describe(NAME).values())
    held = {"worker": worker, "JVM": frontend.pid}
    return {"requests": requests} | {
        name: round(psutil.Process(pid).memory_info().rss / 1e6, 1) for name, pid in held.items()
    }


@contextmanager
def edge_server(home: Path, **settings: object) -> Iterator[Endpoint]:
    """Run the edge with the given settings and without a rate limit."""
    port, metrics_port = free_ports(2)
    limits = {"rate_per_second": 1_000_000, "rate_burst": 1_000_000, "bytes_per_second": 1_000_000_000}
    values = {"home": home, "port": port, "metrics_port": metrics_port, "dataset": NAME} | limits | settings
    key, entry = keys.create_key()
    add_key(home / "keys.json", entry)
    environ = os.environ | {edge_variable(field): str(value) for field, value in values.items()}
    home.mkdir(parents=True, exist_ok=True)
    log = home / "edge.log"
    with log.open("wb") as stream:
        command = [*END_WITH_PARENT, sys.executable, "-m", "serving.edge.serve"]
        process = subprocess.Popen(command, env=environ, stdout=stream, stderr=subprocess.STDOUT)
    try:
        _await_edge(f"http://127.0.0.1:{port}/readyz", process, log)
        yield Endpoint(f"http://127.0.0.1:{port}/v1/recommendations", key, PERSONAL)
    finally:
        process.terminate()
        process.wait()


def _await_edge(url: str, process: subprocess.Popen, log: Path) -> None:
    """Wait until the edge has its first answer from TorchServe."""
    deadline = time.monotonic() + EDGE_READY_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        with suppress(httpx.HTTPError):
            if httpx.get(url, trust_env=False).json().get("popular_list"):
                return
        time.sleep(0.1)
    raise RuntimeError(f"the edge did not become ready:\n{log.read_text(encoding='utf-8')[-2000:]}")
