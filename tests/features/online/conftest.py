"""A real Redis for the tests that need one, and an empty store of either kind."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis

from data.columns import DAY
from features.online.connect import Settings, connect
from features.online.record_store import RecordStore
from features.online.store import Policy


class Server:
    """One redis-server of our own on a free port, ended by its own pid."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._folder = folder
        self.start()

    def start(self) -> None:
        command = ["redis-server", "--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
        self.process = subprocess.Popen([*command, "--dir", str(self._folder)], stdout=subprocess.DEVNULL)
        client = redis.Redis.from_url(self.url)
        for _ in range(200):
            try:
                client.ping()
                break
            except redis.ConnectionError:
                time.sleep(0.05)
        else:
            pytest.fail(f"redis-server did not answer on port {self.port}")
        client.close()

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()


def server(folder: Path) -> Iterator[Server]:
    if shutil.which("redis-server") is None:
        pytest.skip("there is no redis-server on the path (Debian: apt-get install redis-server)")
    started = Server(folder)
    yield started
    started.stop()


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One for all tests; each works under a namespace of its own."""
    yield from server(tmp_path_factory.mktemp("redis"))


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[Server]:
    """One for a test that stops it."""
    yield from server(tmp_path)


@pytest.fixture(params=["sqlite", "redis"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where a store of either kind may be."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/store.db"
    return request.getfixturevalue("redis_server").url


@pytest.fixture
def namespace(tmp_path: Path) -> str:
    return str(tmp_path)


@pytest.fixture
def reopen(url: str, namespace: str) -> Iterator[Callable[[], RecordStore]]:
    """Another connection to the same store."""
    opened: list[RecordStore] = []

    def reopen() -> RecordStore:
        opened.append(connect(namespace, Settings(url), writing=True))
        return opened[-1]

    yield reopen
    for store in opened:
        store.close()


@pytest.fixture
def store(reopen: Callable[[], RecordStore]) -> RecordStore:
    """An empty store that keeps 50 events of each user for 30 days."""
    made = reopen()
    made.configure(Policy(max_events=50, ttl_us=30 * DAY))
    return made
