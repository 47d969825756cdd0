"""Run a service in several processes: one service per folder, and the metrics of all processes at one address."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path
from typing import Any, Protocol

import uvicorn
from filelock import FileLock, Timeout

from config.command import UserError
from web.service_log import log_config
from web.uvicorn_options import UVICORN_OPTIONS

SHARED_COUNTS = "PROMETHEUS_MULTIPROC_DIR"
SHARED_MEMORY = Path("/dev/shm")  # Linux's files in memory

Variable = Callable[[str], str]  # the environment variable of a setting: port -> TIDEGATE_EDGE_PORT


class ServiceSettings(Protocol):
    """What the settings of every service hold."""

    @property
    def host(self) -> str: ...
    @property
    def port(self) -> int: ...
    @property
    def metrics_host(self) -> str: ...
    @property
    def metrics_port(self) -> int: ...
    @property
    def home(self) -> Path: ...
    @property
    def workers(self) -> int: ...


@contextmanager
def only_one(name: str, settings: ServiceSettings, variable: Variable) -> Iterator[None]:
    """Hold a service's folder, so that no second one of this name touches the files and counts of the first.

    Raises:
        UserError: a port cannot be used, or another one has the folder; nothing was written.
    """
    addresses = ("port", settings.host, settings.port), ("metrics_port", settings.metrics_host, settings.metrics_port)
    for field, host, port in addresses:
        try:
            socket.create_server((host, port)).close()
        except OSError as error:
            raise _unusable_port(variable(field), host, port, error) from None
    settings.home.mkdir(parents=True, exist_ok=True)
    # The operating system releases the lock of a killed process.
    lock = FileLock(settings.home / f"{name}.lock", blocking=False)
    try:
        lock.acquire()
    except Timeout:
        raise UserError(
            f"{variable('home')}: another {name} runs with {settings.home}; give this one a folder of its own"
        ) from None
    try:
        yield
    finally:
        lock.release()


def share_counts(name: str, home: Path) -> Path:
    """Make an empty folder where processes share their metrics; prometheus_client reads its name from the environment.

    In memory where possible: the files are sparse and mapped, and on a full disk the first write to a hole would end
    the process that counts.
    """
    folder = home / "metrics"
    if os.access(SHARED_MEMORY, os.W_OK):
        digest = blake2b(str(home.resolve()).encode(), digest_size=8).hexdigest()
        folder = SHARED_MEMORY / f"tidegate-{name}-{os.getuid()}-{digest}"
    shutil.rmtree(folder, ignore_errors=True)  # counts of processes that are gone
    folder.mkdir(mode=0o700, parents=True)
    os.environ[SHARED_COUNTS] = str(folder)
    return folder


def serve_metrics(settings: ServiceSettings, variable: Variable) -> None:
    """Serve the metrics of all processes, in a thread. Raises UserError: the port cannot be used."""
    # Not at the top: prometheus_client reads SHARED_COUNTS when it is first imported.
    from prometheus_client import CollectorRegistry, start_http_server
    from prometheus_client.multiprocess import MultiProcessCollector

    registry = CollectorRegistry()
    MultiProcessCollector(registry)
    host, port = settings.metrics_host, settings.metrics_port
    try:
        start_http_server(port, host, registry)
    except OSError as error:
        raise _unusable_port(variable("metrics_port"), host, port, error) from None


def _unusable_port(name: str, host: str, port: int, error: OSError) -> UserError:
    return UserError(f"{name}: {host}:{port} cannot be used ({error.strerror})")


def run(name: str, app: str, settings: ServiceSettings, variable: Variable) -> None:
    """Serve until stopped.

    Args:
        app: the function that makes the application in each process, such as `serving.edge.app:create_app`.
    """
    counts = share_counts(name, settings.home)
    try:
        serve_metrics(settings, variable)
        metrics = f"metrics at port {settings.metrics_port}"
        print(f"serving http://{settings.host}:{settings.port}/docs; {metrics}", flush=True)
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # uvicorn raises it again after a clean stop
        address: dict[str, Any] = {"host": settings.host, "port": settings.port, "workers": settings.workers}
        logging = log_config(app.partition(".")[0])
        uvicorn.run(app, factory=True, log_config=logging, **address, **UVICORN_OPTIONS)
    finally:
        shutil.rmtree(counts, ignore_errors=True)
