"""Start the servers of a benchmark, and put them under load with wrk."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from unittest.mock import patch

import httpx

from benchmarks._synthetic import NAME
from features.online.connect import STORE_VARIABLE
from serving import settings as torchserve
from serving.artifact.archive import INNER_MANIFEST, build_archive
from serving.edge import keys
from serving.edge.settings import variable as edge_variable
from serving.settings import PORTS, ServerSettings, variable
from serving.torchserve import server
from serving.torchserve.client import TorchServe, prediction_path

SCRIPT = Path(__file__).with_suffix(".lua")
SUMMED = ("requests", "seconds", "refused", "other", "broken", "late")
TIMEOUT_SECONDS = 5  # a request without an answer by then counts as late
REDIS_READY_SECONDS, EDGE_READY_SECONDS = 10, 60
PERSONAL = '"source":"personalized"'  # every personalized answer contains it
NOOP = "noop"
NOOP_SOURCE = '''\
"""Answers without doing anything, so that only the server's own time is left."""


def handle(data, context):
    return ["OK"] * len(data or ())
'''


@dataclass(frozen=True)
class Target:
    """Where to post, and how to recognize a good answer.

    Attributes:
        wanted: a text that every good answer contains.
        token: sent as `Authorization: Bearer`.
    """

    url: str
    token: str
    wanted: str


@dataclass(frozen=True)
class Load:
    """What wrk measured.

    Attributes:
        refused: answers whose status was not 200.
        other: answers with status 200 that do not contain the wanted text.
        broken: connections that failed.
        late: requests without an answer in time.
    """

    requests: int
    seconds: float
    p50_ms: float
    p99_ms: float
    refused: int
    other: int
    broken: int
    late: int

    @property
    def per_second(self) -> float:
        return self.requests / self.seconds

    @property
    def bad(self) -> int:
        """Requests without a good answer."""
        return self.refused + self.other + self.broken + self.late


def pooled(rounds: Sequence[Load]) -> Load:
    """Several rounds as one: sums of counts and seconds, and the median of each percentile."""
    sums = {name: sum(getattr(one, name) for one in rounds) for name in SUMMED}
    p50, p99 = (median(getattr(one, name) for one in rounds) for name in ("p50_ms", "p99_ms"))
    return Load(**sums, p50_ms=p50, p99_ms=p99)


class LoadError(RuntimeError):
    """wrk ended without figures; the text is its output."""


def load(target: Target, concurrency: int, seconds: float, users: int, k: int, first: int = 0) -> Load:
    """Keep `concurrency` requests in flight for some seconds, from one thread; users take turns from number `first` on."""
    command = [
        "wrk",
        *("--threads", "1", "--connections", str(concurrency), "--duration", f"{max(1, round(seconds))}s"),
        *("--timeout", f"{TIMEOUT_SECONDS}s", "--script", str(SCRIPT)),
        *_headers({"Authorization": f"Bearer {target.token}", "Content-Type": "application/json"}),
        target.url,
        *("--", str(users), str(first), str(k), target.wanted),
    ]
    ended = subprocess.run(command, capture_output=True, text=True)
    lines = ended.stdout.strip().splitlines()
    if ended.returncode or not lines or not lines[-1].startswith("{"):
        raise LoadError(f"wrk of {target.url} failed: {(ended.stderr or ended.stdout).strip()[-300:]}")
    return Load(**json.loads(lines[-1]))


def _headers(headers: Mapping[str, str]) -> list[str]:
    return [part for name, value in headers.items() for part in ("--header", f"{name}: {value}")]


@contextmanager
def redis_server() -> Iterator[str]:
    """Run a redis-server without persistence on a free port; gives its URL."""
    port = free_ports(1)[0]
    with tempfile.TemporaryDirectory() as folder:
        options = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", folder]
        process = subprocess.Popen(["redis-server", *options], stdout=subprocess.DEVNULL)
        try:
            _await_redis(port)
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


def _await_redis(port: int) -> None:
    deadline = time.monotonic() + REDIS_READY_SECONDS
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


@contextmanager
def server_environment(home: Path, store: str) -> Iterator[None]:
    """Servers that start inside the block use a folder, free ports and a store of their own."""
    ports = {variable(field): str(port) for field, port in zip(PORTS, free_ports(len(PORTS)), strict=True)}
    folders = {variable("server_home"): str(home / "torchserve"), STORE_VARIABLE: store}
    token = {variable("token_minutes"): str(24 * 60)}  # longer than any soak
    with patch.dict(os.environ, folders | token | ports):
        yield


@contextmanager
def torchserve_server(artifact: Path) -> Iterator[ServerSettings]:
    """Run TorchServe with the artifact, loaded as deploy does, and the no-op handler at batch size 1."""
    settings = torchserve.load()
    server.start(settings)
    try:
        archive = settings.model_store / f"{NAME}.mar"
        build_archive(artifact, archive, NAME)
        _write_noop(settings.model_store / f"{NOOP}.mar")
        with TorchServe.from_settings(settings) as client:
            client.register(
                archive.name,
                NAME,
                workers=settings.workers,
                batch_size=settings.batch_size,
                batch_delay_ms=settings.batch_delay_ms,
            )
            client.register(f"{NOOP}.mar", NOOP)
        yield settings
    finally:
        server.stop(settings)


def model_target(settings: ServerSettings, name: str, wanted: str) -> Target:
    """The target of a loaded model."""
    token = json.loads(settings.key_file.read_text())["inference"]["key"]
    return Target(settings.inference_url + prediction_path(name), token, wanted)


@contextmanager
def edge_server(home: Path, **settings: object) -> Iterator[Target]:
    """Run the edge with the given settings and without a rate limit."""
    port, metrics_port = free_ports(2)
    limits = {"rate_per_second": 1_000_000, "rate_burst": 1_000_000}
    values = {"home": home, "port": port, "metrics_port": metrics_port, "dataset": NAME} | limits | settings
    key, entry = keys.create_key()
    keys.add_key(home / "keys.json", entry)
    environ = os.environ | {edge_variable(field): str(value) for field, value in values.items()}
    home.mkdir(parents=True, exist_ok=True)
    with (home / "edge.log").open("wb") as log:
        command = [sys.executable, "-m", "serving.edge.serve"]
        process = subprocess.Popen(command, env=environ, stdout=log, stderr=subprocess.STDOUT)
    try:
        _await_edge(f"http://127.0.0.1:{port}/readyz", process, home / "edge.log")
        yield Target(f"http://127.0.0.1:{port}/v1/recommendations", key, PERSONAL)
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
    raise RuntimeError(f"the edge did not become ready:\n{log.read_text()[-2000:]}")


def _write_noop(path: Path) -> None:
    """Write the archive of the handler that does nothing."""
    model = {"modelName": NOOP, "modelVersion": "1.0", "handler": "noop_handler.py"}
    manifest = {"createdOn": "01/01/1980 00:00:00", "archiverVersion": "0.12.0", "runtime": "python", "model": model}
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(INNER_MANIFEST, json.dumps(manifest))
        archive.writestr("noop_handler.py", NOOP_SOURCE)
