"""An edge under test: the real application in a real uvicorn on a real port, in a thread of the test's process."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import uvicorn
from memory_profiles import MemoryProfiles

from serving.edge import keys
from serving.edge.app import create_app
from serving.edge.consent import ProfileReader
from serving.edge.service import EdgeService
from serving.edge.settings import EdgeSettings
from web.keys import add_key
from web.uvicorn_options import UVICORN_OPTIONS

# Patient enough for a machine that is busy with other things; what hangs here hangs for ever, so a miss still shows.
DEADLINE_MS, RESERVE_MS, SLACK_MS = 1500, 200, 10_000


class Edge:
    """Runs until `close`. `ask` posts with a server key by default."""

    def __init__(self, settings: EdgeSettings, profiles: ProfileReader | None = None) -> None:
        self.settings = settings
        self.key, stored = keys.create_key()
        add_key(settings.keys_path, stored)
        app = create_app(settings, profiles or MemoryProfiles())
        self.service: EdgeService = app.state.service
        self._server = uvicorn.Server(uvicorn.Config(app, port=0, log_config=None, **UVICORN_OPTIONS))
        self._thread = threading.Thread(target=self._server.run, daemon=True)
        self._thread.start()
        wait_until(lambda: self._server.started)
        port = self._server.servers[0].sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        self.http = httpx.Client(base_url=self.url, trust_env=False, timeout=30)

    def ask(self, body: Any = None, key: str | None = None, **headers: str) -> httpx.Response:
        return self.send("POST", body, key, **headers)

    def get(self, query: str = "", key: str | None = None, **headers: str) -> httpx.Response:
        named = {"authorization": f"Bearer {key or self.key}"} | {
            name.replace("_", "-"): v for name, v in headers.items()
        }
        return self.http.get(f"/v1/recommendations?{query}", headers=named)

    def send(self, method: str, body: Any, key: str | None, **headers: str) -> httpx.Response:
        content = body if isinstance(body, bytes) else json.dumps(body or {}).encode()
        named = {"authorization": f"Bearer {key or self.key}"} | {
            name.replace("_", "-"): v for name, v in headers.items()
        }
        return self.http.request(method, "/v1/recommendations", content=content, headers=named)

    def answer(self, body: Any = None, key: str | None = None, **headers: str) -> dict:
        """The answer, which must be one, and in time."""
        begun = time.perf_counter()
        got = self.ask(body, key, **headers)
        milliseconds = (time.perf_counter() - begun) * 1000
        assert got.status_code == 200, got.text
        allowed = min(int(headers.get("x_deadline_ms", 60_000)), self.settings.deadline_ms)
        assert milliseconds < allowed + SLACK_MS
        return got.json()

    def key_of(self, user_id: str) -> str:
        """A key that may ask for one user; known within a second."""
        text, stored = keys.create_key(user_id)
        add_key(self.settings.keys_path, stored)
        self.service.authenticator.reload(force=True)
        return text

    def count(self, name: str, **labels: str) -> float:
        """A sample of the metrics."""
        return self.service.metrics.registry.get_sample_value(name, labels) or 0.0

    def served(self) -> list[dict]:
        """The lines of the served log so far."""
        self.service.served_log.flush()
        files = sorted((self.settings.home / "served").glob("*.jsonl"))
        return [json.loads(line) for file in files for line in file.read_text(encoding="utf-8").splitlines()]

    def close(self) -> None:
        self.http.close()
        self._server.should_exit = True
        self._thread.join(15)
        assert not self._thread.is_alive()


Start = Callable[..., Edge]  # the fixture `start`: settings by name


def make_settings(home: Path, url: str, **more: Any) -> EdgeSettings:
    """Settings as `serving.edge.settings.load` would fill them, without the machine's own environment."""
    quick: dict[str, Any] = {
        "home": home,
        "user_keys": home.with_name(f"{home.name}-keys"),
        "upstream": url,
        "management": "http://127.0.0.1:9",  # where nothing is
        "dataset": "tiny",
        "token_file": home / "key_file.json",
        "artifact": home / "no-artifact",
        "rollout": home / "rollout" / "tiny.json",
        "deadline_ms": DEADLINE_MS,
        "reserve_ms": RESERVE_MS,
        "cache_ms": RESERVE_MS,
        "store_ms": 5 * RESERVE_MS,
        "breaker_seconds": 0.2,
        "popular_seconds": 0.5,
    }
    return EdgeSettings(**(quick | more))


def wait_until(holds: Callable[[], bool], seconds: float = 10) -> None:
    """Wait for something that happens by itself."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it did not come to hold"
        time.sleep(0.01)
