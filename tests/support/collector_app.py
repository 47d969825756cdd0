"""A running event collector for tests: the application on a free port, in a thread of this process."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import uvicorn

from data.collect.app import create_app
from data.collect.event_log import LoggedMessage
from data.collect.open_log import open_reader
from data.collect.schema import PURPOSES, Event, decode_events
from data.collect.settings import CollectSettings
from data.collect.write_keys import WriteKey
from web.keys import add_key, create
from web.uvicorn_options import UVICORN_OPTIONS

WAIT_SECONDS = 30


class RunningCollector:
    """A collector with one write key, `key`. Settings are given by field; `wrap` puts an application in front."""

    def __init__(self, home: Path, wrap: Callable[[Any], Any] = lambda app: app, **settings: Any) -> None:
        self.settings = CollectSettings(home=home, **settings)
        self.key = self.make_key("web")
        self.app = create_app(self.settings)
        listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        self._server = uvicorn.Server(uvicorn.Config(wrap(self.app), log_config=None, **UVICORN_OPTIONS))
        self._thread = threading.Thread(target=self._server.run, args=([listener],), daemon=True)
        self._thread.start()
        deadline = time.monotonic() + WAIT_SECONDS
        while not self._server.started:
            assert self._thread.is_alive(), "the collector did not start"
            assert time.monotonic() < deadline, "the collector did not start in time"
            time.sleep(0.01)
        self.client = httpx.Client(base_url=self.url, trust_env=False, timeout=WAIT_SECONDS)

    def make_key(self, source: str, **fields: Any) -> str:
        """The text of a new write key. A collector that runs already reads it within a second."""
        text, key = create(WriteKey, None, source=source, **({"purposes": PURPOSES} | fields))
        add_key(self.settings.write_keys, key)
        return text

    def post(self, path: str, body: Any = None, key: str | None = None, **options: Any) -> httpx.Response:
        """Send JSON, or `content`, with a write key."""
        content = {} if body is None else {"json": body}
        return self.client.post(path, auth=(self.key if key is None else key, ""), **content, **options)

    def send(self, *messages: dict[str, Any], **options: Any) -> dict[str, dict[str, Any]]:
        """Send a batch; the verdict on each message id."""
        response = self.post("/v1/batch", {"batch": list(messages)}, **options)
        assert response.status_code == 200, response.text
        return response.json()["results"]

    def logged(self) -> list[LoggedMessage]:
        """The messages in the log."""
        return list(open_reader(self.settings).read())

    def events(self) -> list[Event]:
        """The events in the log."""
        return [event for message in self.logged() for event in decode_events(message.events)]

    def close(self) -> None:
        self.client.close()
        self._server.should_exit = True
        self._thread.join(WAIT_SECONDS)
