"""All servers of a deployment, real ones, and ways to make each of them fail.

client -> edge -> TorchServe, held up by serving.keep -> slow line -> Redis that writes to disk
            `----------------------------------------------^
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import redis

FILL = 1 << 16  # bytes at a time


class Redis:
    """A redis-server whose writes are on the disk before they are acknowledged, so that a kill loses none."""

    def __init__(self, folder: Path, port: int) -> None:
        self._folder, self._port = folder, port
        self.client = redis.Redis(port=port)
        self.start()

    def start(self) -> None:
        lasting = ["--save", "", "--appendonly", "yes", "--appendfsync", "always", "--dir", str(self._folder)]
        command = ["redis-server", "--port", str(self._port), "--bind", "127.0.0.1", *lasting]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        until(self._answers, 20)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def _answers(self) -> bool:
        with suppress(redis.RedisError):
            return bool(self.client.ping())
        return False


class Line:
    """TCP from a port of its own to another one. What comes back is held for `delay` seconds."""

    def __init__(self, to: int) -> None:
        self._to, self.delay = to, 0.0
        self._loop = asyncio.new_event_loop()
        started = threading.Event()
        threading.Thread(target=self._run, args=(started,), daemon=True).start()
        started.wait()
        self.port = self._server.sockets[0].getsockname()[1]

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)

    def _run(self, started: threading.Event) -> None:
        self._server = self._loop.run_until_complete(asyncio.start_server(self._join, "127.0.0.1", 0))
        started.set()
        self._loop.run_forever()

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            there, back = await asyncio.open_connection("127.0.0.1", self._to)
            await asyncio.gather(self._pump(reader, back, lambda: 0.0), self._pump(there, writer, lambda: self.delay))
        writer.close()

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, delay: Callable[[], float]) -> None:
        with suppress(OSError):
            while some := await source.read(FILL):
                await asyncio.sleep(delay())
                sink.write(some)
        sink.close()


class Disk:
    """A small disk of its own where this process may mount one; else processes are kept from writing to files."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", "size=16m", "tidegate-test", str(folder)]
        self.folder = folder
        self.own = shutil.which("mount") is not None and subprocess.run(mount, capture_output=True).returncode == 0
        self._limited: list[int] = []

    def fill(self, pids: list[int]) -> None:
        if self.own:
            with (self.folder / "filler").open("wb", buffering=0) as file, suppress(OSError):
                for size in (FILL, 1):  # to the last byte
                    with suppress(OSError):
                        while file.write(bytes(size)):
                            pass
            return
        for pid in pids:
            self._limit(pid, 0)
        self._limited = pids

    def free(self) -> None:
        (self.folder / "filler").unlink(missing_ok=True)
        for pid in self._limited:
            with suppress(ProcessLookupError):
                self._limit(pid, resource.RLIM_INFINITY)

    def close(self) -> None:
        if self.own:
            subprocess.run(["umount", "--lazy", str(self.folder)], check=True)

    def _limit(self, pid: int, most: int) -> None:
        hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)[1]
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (most if hard == resource.RLIM_INFINITY else hard, hard))


class Row(NamedTuple):
    """One request and what came of it; status 0: nothing did."""

    kind: str
    status: int
    source: str
    reason: str


class Client:
    """Sends requests all the time: of users in the store, of users who denied consent, and without a user."""

    def __init__(self, url: str, key: str, bodies: dict[str, list[dict]], threads: int = 2) -> None:
        self._url, self._headers, self._bodies = url, {"authorization": f"Bearer {key}"}, bodies
        self.rows: list[Row] = []
        self._numbers, self._ended = count(), threading.Event()
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(threads)]
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        with httpx.Client(trust_env=False, timeout=10, headers=self._headers) as http:
            while not self._ended.wait(0.01):
                number = next(self._numbers)
                kind = list(self._bodies)[number % len(self._bodies)]
                bodies = self._bodies[kind]
                self.rows.append(self._ask(http, kind, bodies[number // len(self._bodies) % len(bodies)]))

    def _ask(self, http: httpx.Client, kind: str, body: dict) -> Row:
        try:
            got = http.post(self._url, json=body)
            answer: dict[str, Any] = got.json() if got.status_code == 200 else {"source": "", "reason": got.text}
            status = got.status_code
        except httpx.HTTPError as error:
            status, answer = 0, {"source": "", "reason": repr(error)}
        return Row(kind, status, answer["source"], answer["reason"])


@contextmanager
def process(command: list[str], log: Path) -> Iterator[subprocess.Popen]:
    """A process that is asked to end at the end of the block."""
    with log.open("wb") as sink:
        running = subprocess.Popen(
            [sys.executable, "-m", *command], stdout=sink, stderr=subprocess.STDOUT, env=dict(os.environ)
        )
    try:
        yield running
    finally:
        running.terminate()
        running.wait(120)


def until(holds: Callable[[], bool], seconds: float, describe: Callable[[], object] = lambda: "") -> None:
    """Wait for something that happens by itself."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, describe()
        time.sleep(0.05)


def readiness(url: str) -> dict:
    """What the edge says of its parts; nothing where it does not answer."""
    with suppress(httpx.HTTPError, json.JSONDecodeError):
        return httpx.get(f"{url}/readyz", trust_env=False).json()
    return {}
