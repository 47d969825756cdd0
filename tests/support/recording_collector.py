"""A web server in a thread that stands for the collector and for a site: it records requests, and answers as a test wants."""

from __future__ import annotations

import json
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Message = dict[str, Any]
WAIT_SECONDS = 10


@dataclass(frozen=True)
class Answer:
    """How one request is answered.

    Attributes:
        verdict: of a message. By default a status of 200 accepts it, and another one has no verdicts.
        body: instead of the verdicts.
        dropped: the connection is closed without an answer.
    """

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    verdict: Callable[[Message], str] | None = None
    body: bytes | None = None
    dropped: bool = False

    def verdicts(self, batch: list[Message]) -> dict[str, str]:
        """By message id, as the sender gets them."""
        if self.dropped or self.body is not None or (self.verdict is None and self.status != 200):
            return {}
        return {message["messageId"]: self.verdict(message) if self.verdict else "accepted" for message in batch}


@dataclass(frozen=True)
class Recorded:
    """A request, and how it was answered."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes
    answer: Answer

    @property
    def batch(self) -> list[Message]:
        return json.loads(self.body)["batch"] if self.method == "POST" else []


class RecordingCollector:
    """Listens on 127.0.0.1. `answers` are used up one per request; then everything is accepted. `pages` is path -> HTML."""

    def __init__(self) -> None:
        self.requests: list[Recorded] = []
        self.answers: deque[Answer] = deque()
        self.pages: dict[str, str] = {}
        self.delay = 0.0  # seconds before each answer
        self._port = 0
        self._server: ThreadingHTTPServer | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def start(self) -> RecordingCollector:
        """Listen, on the same port as before if it was stopped."""
        recorder = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_: object) -> None:
                pass

            def _handle(self) -> None:
                recorder.handle(self)

            do_GET = do_POST = do_OPTIONS = _handle

        self._server = ThreadingHTTPServer(("127.0.0.1", self._port), Handler)
        self._server.daemon_threads = True
        self._port = self._server.server_port
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def stop(self) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def handle(self, request: BaseHTTPRequestHandler) -> None:
        if request.command == "GET":
            page = self.pages.get(request.path.partition("?")[0], self.pages.get("*", ""))
            kind = "text/javascript" if request.path.endswith(".js") else "text/html"
            _respond(request, 200, {"Content-Type": f"{kind}; charset=utf-8"}, page.encode())
            return
        body = request.rfile.read(int(request.headers.get("Content-Length", 0)))
        answer = self.answers.popleft() if self.answers else Answer()
        recorded = Recorded(request.command, request.path, dict(request.headers), body, answer)
        self.requests.append(recorded)
        time.sleep(self.delay)
        if answer.dropped:
            return
        headers = {
            "Content-Type": "application/json",
            "Access-Control-Allow-Origin": "*",
            "Access-Control-Expose-Headers": "Retry-After",
        }
        results = {name: {"status": verdict} for name, verdict in answer.verdicts(recorded.batch).items()}
        body = json.dumps({"results": results}).encode() if answer.body is None else answer.body
        _respond(request, answer.status, headers | answer.headers, body)

    @property
    def sent(self) -> list[Message]:
        """Every message of every request, in order."""
        return [message for request in list(self.requests) for message in request.batch]

    @property
    def accepted(self) -> list[Message]:
        """Every message that was accepted, as often as it was."""
        return [
            message
            for request in list(self.requests)
            for message in request.batch
            if request.answer.verdicts([message]) == {message["messageId"]: "accepted"}
        ]

    @property
    def delivered(self) -> list[Message]:
        """Every message that was accepted, once, in the order of their times."""
        by_id = {message["messageId"]: message for message in self.accepted}
        return sorted(by_id.values(), key=lambda message: message["timestamp"])

    def events(self, name: str) -> list[Message]:
        """The accepted track messages of this name."""
        return [message for message in self.accepted if message.get("event") == name]

    def wait(self, condition: Callable[[], object]) -> None:
        """Return when a condition holds. Raises AssertionError: it does not within ten seconds."""
        wait_for(condition, lambda: f"the collector got {[message.get('event') for message in self.sent]}")


def wait_for(condition: Callable[[], object], describe: Callable[[], str] = lambda: "it did not happen") -> None:
    """Return when a condition holds. Raises AssertionError: it does not within ten seconds."""
    end = time.monotonic() + WAIT_SECONDS
    while not condition():
        assert time.monotonic() < end, describe()
        time.sleep(0.01)


def _respond(request: BaseHTTPRequestHandler, status: int, headers: Mapping[str, str], body: bytes) -> None:
    try:
        request.send_response(status)
        for name, value in headers.items():
            request.send_header(name, value)
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        request.wfile.write(body)
    except ConnectionError:  # the browser has gone
        pass
