"""A whole platform whose processes can be killed: registry server, Redis, TorchServe with its supervisor, and the edge.

What an init system restarts in production is restarted here a second after it ended. TorchServe and its workers are left
to the supervisor.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import httpx
import psutil
import redis

from benchmarks import _load
from config.paths import ROOT
from features.online import connect
from serving import settings as torchserve
from serving.edge.settings import variable as edge_variable
from serving.settings import PORTS, variable
from serving.torchserve import server

EDGE, SUPERVISOR, TORCHSERVE, WORKER, REDIS, REGISTRY = TARGETS = (
    "edge", "supervisor", "torchserve", "worker", "redis", "registry server",
)  # fmt: skip
RESTART_SECONDS = 1.0
START_SECONDS = 120.0
WORKER_SCRIPT = "model_service_worker.py"


class RestartedProcess:
    """A command that is started again whenever it ends, until `close`."""

    def __init__(self, command: Sequence[str], log: Path, environ: Mapping[str, str]) -> None:
        self._command, self._log, self._environ = command, log, environ
        self._closing = threading.Event()
        self._process = self._start()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    def close(self) -> None:
        self._closing.set()
        self._process.terminate()
        self._thread.join(60)
        self._process.kill()

    def _watch(self) -> None:
        while not self._closing.is_set():
            self._process.wait()
            if not self._closing.wait(RESTART_SECONDS):
                self._process = self._start()
        self._process.wait()

    def _start(self) -> subprocess.Popen:
        with self._log.open("ab") as stream:
            return subprocess.Popen(self._command, cwd=ROOT, env=self._environ, stdout=stream, stderr=subprocess.STDOUT)


class Platform:
    """Processes in one folder. Its environment variables are those of this process and of every command."""

    def __init__(self, home: Path, dataset: str, key_file: Path) -> None:
        self.home, self.dataset = home, dataset
        registry, store, edge, metrics = _load.free_ports(4)
        ports = dict(zip(map(variable, PORTS), map(str, _load.free_ports(len(PORTS))), strict=True))
        self.edge_url = f"http://127.0.0.1:{edge}"
        self.registry_url = f"http://127.0.0.1:{registry}"
        self.redis_port = store
        os.environ |= ports | {
            "MLFLOW_TRACKING_URI": self.registry_url,
            # Or a command would wait for minutes for a registry server that was killed.
            "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
            "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
            connect.STORE_VARIABLE: f"redis://127.0.0.1:{store}/0",
            variable("state"): str(home / "state"),
            variable("server_home"): str(home / "torchserve"),
            edge_variable("home"): str(home / "edge"),
            edge_variable("key_file"): str(key_file),
            edge_variable("port"): str(edge),
            edge_variable("metrics_port"): str(metrics),
            edge_variable("dataset"): dataset,
            edge_variable("workers"): "2",
        }  # fmt: skip
        self._running: dict[str, RestartedProcess] = {}

    def start_stores(self) -> None:
        """Start the registry server and Redis, which has each write on disk before it confirms it."""
        folder = self.home / "redis"
        folder.mkdir()
        address = ["--port", str(self.redis_port), "--bind", "127.0.0.1", "--dir", str(folder), "--save", ""]
        self._run(REDIS, ["redis-server", *address, "--appendonly", "yes", "--appendfsync", "always"])
        database, artifacts = self.home / "registry.db", self.home / "artifacts"
        where = ["--backend-store-uri", f"sqlite:///{database}", "--artifacts-destination", str(artifacts)]
        address = ["--host", "127.0.0.1", "--port", self.registry_url.rpartition(":")[2], "--workers", "1"]
        self._run(
            REGISTRY, [sys.executable, "-m", "mlflow", "server", *where, *address], MLFLOW_SERVER_ENABLE_JOB_EXECUTION="false"
        )  # fmt: skip
        wait_for("Redis", lambda: bool(redis.Redis(port=self.redis_port).ping()))
        wait_for("the registry server", lambda: httpx.get(f"{self.registry_url}/health").status_code == 200)

    def start_serving(self) -> None:
        """Start the supervisor, with TorchServe, and the edge with two processes."""
        self._run(SUPERVISOR, [sys.executable, "-m", "serving.supervisor", "--dataset", self.dataset])
        self._run(EDGE, [sys.executable, "-m", "serving.edge.serve"])
        wait_for("the edge", lambda: httpx.get(f"{self.edge_url}/readyz").json()["torchserve"])

    def kill(self, target: str, rng: random.Random) -> int | None:
        """Kill one process of a target with SIGKILL; its pid, None if none runs."""
        running = self._processes(target)
        if not running:
            return None
        victim = rng.choice(running)
        # MLflow's command starts the server as a child, which would go on serving.
        children = victim.children(recursive=True) if target == REGISTRY else []
        for process in (victim, *children):
            with suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGKILL)
        return victim.pid

    def close(self) -> None:
        for name in (EDGE, SUPERVISOR, REGISTRY, REDIS):
            if name in self._running:
                self._running[name].close()
        server.stop(torchserve.load())

    def _processes(self, target: str) -> list[psutil.Process]:
        try:
            if target in self._running:
                root = psutil.Process(self._running[target].pid)
                return [root, *(root.children() if target == EDGE else [])]
            frontend = server.find(torchserve.load())
            if frontend is None or target == TORCHSERVE:
                return [] if frontend is None else [psutil.Process(frontend.pid)]
            children = psutil.Process(frontend.pid).children(recursive=True)
            return [child for child in children if any(part.endswith(WORKER_SCRIPT) for part in child.cmdline())]
        except psutil.NoSuchProcess:
            return []

    def _run(self, name: str, command: Sequence[str], **environ: str) -> None:
        log = self.home / f"{name.replace(' ', '-')}.log"
        self._running[name] = RestartedProcess(command, log, {**os.environ, **environ})


def wait_for(what: str, holds: Callable[[], bool]) -> None:
    """Wait until something holds; errors count as no. Raises RuntimeError after two minutes."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        with suppress(httpx.HTTPError, redis.RedisError, KeyError, ValueError):
            if holds():
                return
        time.sleep(0.2)
    raise RuntimeError(f"{what} did not come up within {START_SECONDS:.0f} s")
