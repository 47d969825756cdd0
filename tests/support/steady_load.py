"""Clients that ask a live TorchServe all the time, and what each of them was answered."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import groupby

from serving.settings import ServerSettings
from serving.torchserve.client import prediction_path

CONNECTIONS = 8  # TorchServe serves them in turn by two threads per core
PAUSE = 0.01  # seconds between an answer and the next request
NEVER = 120  # seconds without an answer, after which there will be none
BODY = b'{"history": [{"item_id": "item-01", "event_time": "2026-01-01T00:00:00Z"}], "k": 3}'


class Connection(threading.Thread):
    """One connection that sends a request after each answer."""

    def __init__(self, live: ServerSettings, model: str, stopped: threading.Event) -> None:
        super().__init__(daemon=True)
        token = json.loads(live.key_file.read_text(encoding="utf-8"))["inference"]["key"]
        self._path, self._headers = prediction_path(model), {"Authorization": f"Bearer {token}"}
        self._http = http.client.HTTPConnection(live.host, live.inference_port, timeout=NEVER)
        self._stopped = stopped
        self.versions: list[str] = []  # of each answer
        self.failure: object = None  # the first request without an answer ends the thread

    def run(self) -> None:
        while not self._stopped.wait(PAUSE) and self.failure is None:
            try:
                self._http.request("POST", self._path, BODY, self._headers)
                answer = self._http.getresponse()
                text = answer.read()
                if answer.status == 200:
                    self.versions.append(json.loads(text)["model_version"])
                else:
                    self.failure = answer.status, text
            except OSError as error:  # cut, or never answered
                self.failure = error
        self._http.close()

    @property
    def changes(self) -> list[str]:
        """The versions that answered, in order."""
        return [version for version, _ in groupby(self.versions)]


class Load:
    """All connections. A failure on one of them ends a wait, and is for the test to see."""

    def __init__(self, connections: list[Connection]) -> None:
        self.connections = connections

    def counts(self) -> list[int]:
        """Answers so far, by connection."""
        return [len(connection.versions) for connection in self.connections]

    def failures(self) -> list[object]:
        return [connection.failure for connection in self.connections if connection.failure is not None]

    def wait_for_answers(self) -> None:
        """Wait until each connection was answered twice more, so once to a request that it sent after this call."""
        before = self.counts()
        while not self.failures() and any(now < then + 2 for now, then in zip(self.counts(), before, strict=True)):
            time.sleep(PAUSE)


@contextmanager
def steady_load(live: ServerSettings, model: str) -> Iterator[Load]:
    """Ask for the default version of a model during the block. After it, each request has its answer or its failure."""
    stopped = threading.Event()
    load = Load([Connection(live, model, stopped) for _ in range(CONNECTIONS)])
    for connection in load.connections:
        connection.start()
    try:
        load.wait_for_answers()
        yield load
        load.wait_for_answers()
    finally:
        stopped.set()
        for connection in load.connections:
            connection.join()
