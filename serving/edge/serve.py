"""Run the recommendation API, and its metrics on an address of their own."""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import socket
import sys
from hashlib import blake2b
from pathlib import Path
from typing import Any

import uvicorn

from config.command import UserError, exits_cleanly
from serving.edge import keyring, log_lines, settings
from serving.edge.pseudonym import load_secret
from serving.edge.settings import EdgeSettings, variable

APP = "serving.edge.app:create"
MULTIPROCESS = "PROMETHEUS_MULTIPROC_DIR"  # read by prometheus_client when it is first imported
SHARED_MEMORY = Path("/dev/shm")  # Linux's files in memory
STOP_SECONDS = 5
HUNG_SECONDS = 30  # a process that is silent for so long is replaced; on a busy machine 5 are soon over
KEEP_ALIVE_SECONDS = 75  # longer than common balancers keep theirs, so that they never meet a connection just closed
HTTP: dict[str, Any] = {
    "loop": "uvloop",
    "http": "serving.edge.protocol:BoundedHttp",
    "ws": "none",
    "lifespan": "on",
    "access_log": False,  # the served log says more, and query strings may name users
    "server_header": False,
    "proxy_headers": False,  # nothing here rests on the client's address
    "timeout_keep_alive": KEEP_ALIVE_SECONDS,
}


class ServeError(UserError):
    """The edge cannot be run as asked."""


def metrics(chosen: EdgeSettings) -> None:
    """Serve the counts of all processes from this one, in a thread.

    Raises:
        ServeError: the port cannot be had.
    """
    from prometheus_client import CollectorRegistry, start_http_server
    from prometheus_client.multiprocess import MultiProcessCollector

    registry = CollectorRegistry()
    MultiProcessCollector(registry)
    try:
        start_http_server(chosen.metrics_port, chosen.metrics_host, registry)
    except OSError as error:
        place = f"{chosen.metrics_host}:{chosen.metrics_port}"
        raise ServeError(f"{variable('metrics_port')}: {place} cannot be used ({error.strerror})") from None


def run(chosen: EdgeSettings) -> None:
    """Answer until stopped. One process answers here; more are children, started again when they die."""
    uvicorn.run(
        APP,
        factory=True,
        host=chosen.host,
        port=chosen.port,
        workers=chosen.workers,
        log_config=log_lines.CONFIG,
        timeout_graceful_shutdown=STOP_SECONDS,
        timeout_worker_healthcheck=HUNG_SECONDS,
        **HTTP,
    )


def check(chosen: EdgeSettings) -> None:
    """See that every process will be able to start: one that cannot would be started again and again.

    Raises:
        ServeError: the port cannot be had.
        KeyringError, SecretError: the keys, or the secret that hides users, are none.
    """
    stated = chosen.keys.get_secret_value()
    known = keyring.read(chosen.keys_path) + (keyring.parse(stated, variable("keys")) if stated else [])
    if not known:
        print("no API key exists yet: make one with `python -m serving.edge.keys make`", file=sys.stderr)
    load_secret(chosen.user_secret.get_secret_value(), chosen.home / "user.key")
    try:
        socket.create_server((chosen.host, chosen.port)).close()
    except OSError as error:
        place = f"{chosen.host}:{chosen.port}"
        raise ServeError(f"{variable('port')}: {place} cannot be used ({error.strerror})") from None


def counts_folder(home: Path) -> Path:
    """Where processes put their counts together: in memory, where the system has files there.

    They are mapped files with holes. On a full disk the first write to a hole ends the process that counts.
    """
    if not (SHARED_MEMORY.is_dir() and os.access(SHARED_MEMORY, os.W_OK)):
        return home / "metrics"
    place = blake2b(str(home.resolve()).encode(), digest_size=8).hexdigest()
    return SHARED_MEMORY / f"tidegate-edge-{os.getuid()}-{place}"


def _prepare(chosen: EdgeSettings) -> None:
    folder = counts_folder(chosen.home)
    shutil.rmtree(folder, ignore_errors=True)  # counts of processes that are gone
    folder.mkdir(mode=0o700, parents=True)
    os.environ[MULTIPROCESS] = str(folder)


@exits_cleanly
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m serving.edge.serve", description=__doc__)
    parser.add_argument("--host", help=f"default: {variable('host')}, or loopback")
    parser.add_argument("--port", type=int, help=f"default: {variable('port')}, or 8090")
    parser.add_argument("--workers", type=int, help=f"processes; default: {variable('workers')}, or 1")
    arguments = parser.parse_args(argv)
    for field in ("host", "port", "workers"):  # processes that answer read the environment
        if getattr(arguments, field) is not None:
            os.environ[variable(field)] = str(getattr(arguments, field))
    chosen = settings.load()
    check(chosen)
    _prepare(chosen)
    try:
        metrics(chosen)
        where = f"http://{chosen.host}:{chosen.port}/docs"
        print(f"answers at {where}; counts at port {chosen.metrics_port}", flush=True)
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # uvicorn raises it again once it has ended well
        run(chosen)
    finally:
        shutil.rmtree(counts_folder(chosen.home), ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
