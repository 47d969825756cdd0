"""Run the recommendation API, and its metrics on an address of their own."""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path
from typing import Any

import uvicorn
from filelock import FileLock, Timeout

from config.command import UserError, exits_cleanly
from serving.edge import settings
from serving.edge.keys import read_keys
from serving.edge.request_log import LOGGING
from serving.edge.settings import UVICORN_OPTIONS, EdgeSettings, variable
from serving.edge.user_keys import load_keys

APP = "serving.edge.app:create_app"
SHARED_COUNTS = "PROMETHEUS_MULTIPROC_DIR"
SHARED_MEMORY = Path("/dev/shm")  # Linux's files in memory


@contextmanager
def only_edge(edge: EdgeSettings) -> Iterator[None]:
    """Hold the edge's folder, so that no second edge touches the files and counts of the first.

    Raises:
        UserError: a port cannot be used, or another edge has the folder; nothing was written.
    """
    for field, host, port in (("port", edge.host, edge.port), ("metrics_port", edge.metrics_host, edge.metrics_port)):
        try:
            socket.create_server((host, port)).close()
        except OSError as error:
            raise _unusable_port(field, host, port, error) from None
    edge.home.mkdir(parents=True, exist_ok=True)
    lock = FileLock(edge.home / "edge.lock", blocking=False)  # the operating system releases that of a killed process
    try:
        lock.acquire()
    except Timeout:
        raise UserError(
            f"{variable('home')}: another edge runs with {edge.home}; give this one a folder of its own"
        ) from None
    try:
        yield
    finally:
        lock.release()


def check(edge: EdgeSettings) -> None:
    """Check that every process will be able to start: one that cannot would be started again and again.

    Raises:
        UserError: the keys or the secret that hides users are invalid.
    """
    if not read_keys(edge.keys_path):
        lost = " (if there were some, restore them from a backup)" if (edge.home / "served").exists() else ""
        print(f"no API key exists yet: make one with `python -m serving.edge.keys make`{lost}", file=sys.stderr)
    load_keys(edge)


def share_counts(home: Path) -> Path:
    """Make an empty folder where processes share their metrics; prometheus_client reads its name from the environment.

    In memory where possible: the files are sparse and mapped, and on a full disk the first write to a hole would end
    the process that counts.
    """
    folder = home / "metrics"
    if os.access(SHARED_MEMORY, os.W_OK):
        name = blake2b(str(home.resolve()).encode(), digest_size=8).hexdigest()
        folder = SHARED_MEMORY / f"tidegate-edge-{os.getuid()}-{name}"
    shutil.rmtree(folder, ignore_errors=True)  # counts of processes that are gone
    folder.mkdir(mode=0o700, parents=True)
    os.environ[SHARED_COUNTS] = str(folder)
    return folder


def serve_metrics(edge: EdgeSettings) -> None:
    """Serve the metrics of all processes, in a thread. Raises UserError: the port cannot be used."""
    # Not at the top: prometheus_client reads SHARED_COUNTS when it is first imported.
    from prometheus_client import CollectorRegistry, start_http_server
    from prometheus_client.multiprocess import MultiProcessCollector

    registry = CollectorRegistry()
    MultiProcessCollector(registry)
    try:
        start_http_server(edge.metrics_port, edge.metrics_host, registry)
    except OSError as error:
        raise _unusable_port("metrics_port", edge.metrics_host, edge.metrics_port, error) from None


def _unusable_port(field: str, host: str, port: int, error: OSError) -> UserError:
    return UserError(f"{variable(field)}: {host}:{port} cannot be used ({error.strerror})")


def run(edge: EdgeSettings) -> None:
    """Serve until stopped."""
    counts = share_counts(edge.home)
    try:
        serve_metrics(edge)
        print(f"serving http://{edge.host}:{edge.port}/docs; metrics at port {edge.metrics_port}", flush=True)
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # uvicorn raises it again after a clean stop
        address: dict[str, Any] = {"host": edge.host, "port": edge.port, "workers": edge.workers}
        uvicorn.run(APP, factory=True, log_config=LOGGING, **address, **UVICORN_OPTIONS)
    finally:
        shutil.rmtree(counts, ignore_errors=True)


@exits_cleanly
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m serving.edge.serve", description=__doc__)
    parser.add_argument("--host", help=f"default: {variable('host')}, or loopback")
    parser.add_argument("--port", type=int, help=f"default: {variable('port')}, or 8090")
    parser.add_argument("--workers", type=int, help=f"processes; default: {variable('workers')}, or 1")
    for field, value in vars(parser.parse_args(argv)).items():  # worker processes read the environment
        if value is not None:
            os.environ[variable(field)] = str(value)
    edge = settings.load()
    with only_edge(edge):
        check(edge)
        run(edge)
    return 0


if __name__ == "__main__":
    sys.exit(main())
