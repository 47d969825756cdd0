"""The edge drains before it ends, and its processes end with their parent."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import psutil
import pytest
from fake_torchserve import FakeTorchServe
from running import wait_until

from benchmarks._load import free_ports
from config.paths import ROOT
from serving.edge import keys
from web.keys import add_key

pytestmark = pytest.mark.slow

DRAIN_SECONDS = 3
SECONDS = 60

Serve = Callable[[int], tuple[subprocess.Popen, str, dict[str, str]]]


@pytest.fixture
def serve(torchserve: FakeTorchServe, artifacts: dict[int, Path], tmp_path: Path) -> Iterator[Serve]:
    """Starts the edge with a number of processes: the parent, its address, and a client's headers."""
    started: list[subprocess.Popen] = []

    def begin(workers: int) -> tuple[subprocess.Popen, str, dict[str, str]]:
        port, counts = free_ports(2)
        key, stored = keys.create_key()
        add_key(tmp_path / "keys.json", stored)
        own = {
            "UPSTREAM": torchserve.url,
            "DATASET": "tiny",
            "HOME": str(tmp_path),
            "PORT": str(port),
            "METRICS_PORT": str(counts),
            "WORKERS": str(workers),
            "ARTIFACT": str(artifacts[1]),
            "TOKEN_FILE": str(tmp_path / "no-tokens"),
            "DEADLINE_MS": "5000",
            "DRAIN_SECONDS": str(DRAIN_SECONDS),
        }
        nobody = {"TIDEGATE_STORE": f"sqlite:///{tmp_path}/none.db"}
        environment = {**os.environ, **nobody, **{f"TIDEGATE_EDGE_{name}": value for name, value in own.items()}}
        process = subprocess.Popen([sys.executable, "-m", "serving.edge.serve"], cwd=ROOT, env=environment)
        started.append(process)
        url = f"http://127.0.0.1:{port}"
        wait_until(lambda: status(url) == "ready", SECONDS)
        return process, url, {"Authorization": f"Bearer {key}"}

    yield begin
    for process in started:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
            process.wait(SECONDS)


def status(url: str) -> str | None:
    """What /readyz says, over a connection of its own; None where nothing listens."""
    try:
        return httpx.get(f"{url}/readyz", trust_env=False, timeout=10).json()["status"]
    except httpx.HTTPError:
        return None


@pytest.mark.parametrize("workers", [1, 2])
def test_no_request_is_refused_or_broken_where_the_balancer_obeys_readyz(serve: Serve, workers: int) -> None:
    process, url, headers = serve(workers)
    answers: list[httpx.Response] = []
    errors: list[Exception] = []
    ends, late = threading.Event(), threading.Event()

    def ask_until(done: threading.Event) -> None:
        with httpx.Client(base_url=url, headers=headers, trust_env=False, timeout=30) as client:
            while not done.is_set():
                try:
                    answers.append(client.post("/v1/recommendations", json={"user_id": "ann", "k": 2}))
                except httpx.HTTPError as error:
                    errors.append(error)

    clients = [threading.Thread(target=ask_until, args=(ends if number else late,)) for number in range(4)]
    for client in clients:
        client.start()
    try:
        time.sleep(0.5)
        process.terminate()
        wait_until(lambda: status(url) == "draining", 10)
        during = len(answers)
        ends.set()  # all clients but one that is slow to notice
        wait_until(lambda: len(answers) >= during + 10, DRAIN_SECONDS)
    finally:
        ends.set()
        late.set()
        for client in clients:
            client.join()
    assert process.poll() is None, "it is still draining, so the answers above were given while it did"
    assert process.wait(SECONDS) == 0
    assert not errors
    assert {answer.status_code for answer in answers} == {200}
    assert answers[-1].headers["connection"] == "close"
    assert status(url) is None


def test_a_request_in_flight_is_answered(serve: Serve, torchserve: FakeTorchServe) -> None:
    process, url, headers = serve(1)
    torchserve.delay = DRAIN_SECONDS + 1.0
    process.terminate()
    got = httpx.post(f"{url}/v1/recommendations", json={"k": 3}, headers=headers, trust_env=False, timeout=30)
    assert (got.status_code, got.json()["cache"]) == (200, "miss")
    assert process.wait(SECONDS) == 0


def test_an_interrupt_ends_it_without_draining(serve: Serve) -> None:
    process, _, _ = serve(1)
    begun = time.monotonic()
    process.send_signal(signal.SIGINT)
    assert process.wait(SECONDS) == 0
    assert time.monotonic() - begun < DRAIN_SECONDS


def test_the_processes_end_and_free_the_port_when_the_parent_is_killed(serve: Serve) -> None:
    process, url, _ = serve(2)
    children = psutil.Process(process.pid).children(recursive=True)
    assert len(children) >= 2
    process.kill()
    process.wait()
    _, alive = psutil.wait_procs(children, timeout=SECONDS)
    assert not alive
    socket.create_server(("127.0.0.1", int(url.rpartition(":")[2]))).close()
