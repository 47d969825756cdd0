"""TorchServe with our handler and one that does nothing, and the edge in front of it, on ports of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from unittest.mock import patch

import httpx

from benchmarks._load import Target
from benchmarks._made_service import NAME
from benchmarks._redis import free_ports
from features.online.connect import STORE
from serving import package, server
from serving import settings as torchserve
from serving.edge import keyring
from serving.edge.settings import variable as edge_variable
from serving.settings import PORTS, Settings, variable
from serving.torchserve.client import TorchServe, prediction_path

NOOP = "noop"
NOOP_SOURCE = '''\
"""Answers without doing anything: what is left is the server's own time."""


def handle(data, context):
    return ["OK"] * len(data or ())
'''
PERSONAL = '"rung":"personalised"'
READY_SECONDS = 60


@contextmanager
def environment(home: Path, store: str) -> Iterator[None]:
    """Let every server that starts inside the block keep to a folder, to free ports and to a store."""
    ports = {variable(field): str(port) for field, port in zip(PORTS, free_ports(len(PORTS)), strict=True)}
    own = {variable("server_home"): str(home / "torchserve"), STORE: store}
    day = {variable("token_minutes"): str(24 * 60)}  # a long soak must not outlive its token
    with patch.dict(os.environ, own | day | ports):
        yield


@contextmanager
def running(artifact: Path) -> Iterator[Settings]:
    """TorchServe with the artifact as deploy loads it, and beside it the no-op at batch size 1."""
    settings = torchserve.load()
    server.start(settings)
    try:
        archive = settings.model_store / f"{NAME}.mar"
        package.build(artifact, archive, NAME)
        _write_noop(settings.model_store / f"{NOOP}.mar")
        with TorchServe.of(settings) as client:
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


def target(settings: Settings, name: str, wanted: str) -> Target:
    """Where a loaded model is asked; its token holds for as long as the settings say."""
    token = json.loads(settings.key_file.read_text())["inference"]["key"]
    return Target(settings.inference_url + prediction_path(name), token, wanted)


@contextmanager
def edge(home: Path, **chosen: object) -> Iterator[Target]:
    """The edge, as deployed but for the settings given, without a limit of its rate."""
    port, metrics_port = free_ports(2)
    limits = {"rate_per_second": 1_000_000, "rate_burst": 1_000_000}
    stated = {"home": home, "port": port, "metrics_port": metrics_port, "dataset": NAME} | limits | chosen
    key, kept = keyring.new(keyring.SERVER, None, None)
    keyring.add(home / "keys.json", kept)
    environ = os.environ | {edge_variable(field): str(value) for field, value in stated.items()}
    home.mkdir(parents=True, exist_ok=True)
    with (home / "edge.log").open("wb") as log:
        command = [sys.executable, "-m", "serving.edge.serve"]
        process = subprocess.Popen(command, env=environ, stdout=log, stderr=subprocess.STDOUT)
    try:
        _await(f"http://127.0.0.1:{port}/readyz", process, home / "edge.log")
        yield Target(f"http://127.0.0.1:{port}/v1/recommendations", key, PERSONAL)
    finally:
        process.terminate()
        process.wait()


def _await(url: str, process: subprocess.Popen, log: Path) -> None:
    """Wait until the edge has had its first answer from TorchServe."""
    deadline = time.monotonic() + READY_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        with suppress(httpx.HTTPError):
            if httpx.get(url, trust_env=False).json().get("popular_list"):
                return
        time.sleep(0.1)
    raise RuntimeError(f"the edge did not become ready:\n{log.read_text()[-2000:]}")


def _write_noop(path: Path) -> None:
    """The archive of the handler that does nothing."""
    model = {"modelName": NOOP, "modelVersion": "1.0", "handler": "noop_handler.py"}
    stated = {"createdOn": "01/01/1980 00:00:00", "archiverVersion": "0.12.0", "runtime": "python", "model": model}
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(package.INNER_MANIFEST, json.dumps(stated))
        archive.writestr("noop_handler.py", NOOP_SOURCE)
