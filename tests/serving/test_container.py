"""The container keeps its processes, gives up when the edge does not stay up, and says what answers."""

from __future__ import annotations

import json
import signal
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import ClassVar

import pytest

from serving import container
from serving.container import STEADY_SECONDS, Child


class FakeProcess:
    """Ends when the test says so."""

    started: ClassVar[list[float]] = []
    now = 0.0

    def __init__(self, command: list[str], **_: object) -> None:
        assert command[-2:] == ["-m", "serving.edge.serve"]
        self.code: int | None = None
        FakeProcess.started.append(FakeProcess.now)

    def poll(self) -> int | None:
        return self.code


def test_a_process_is_started_again_at_once_and_then_after_growing_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "Popen", FakeProcess)
    monkeypatch.setattr(FakeProcess, "started", [])
    child = Child(["serving.edge.serve"], lambda: FakeProcess.now)
    for second in range(100):
        FakeProcess.now = float(second)
        child.keep()
        if child._process is not None:
            child._process.code = 1
    assert FakeProcess.started[:8] == [0, 1, 3, 6, 11, 20, 37, 68]
    child._process.code, child.failures = None, 3
    FakeProcess.now += STEADY_SECONDS
    child.keep()
    child._process.code = 1
    child.keep()
    assert child.failures == 1, "it ran long enough to begin anew"
    assert FakeProcess.started[-1] == FakeProcess.now


def test_a_full_disk_under_the_log_does_not_end_the_container(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(subprocess, "Popen", FakeProcess)
    monkeypatch.setattr(FakeProcess, "started", [])
    monkeypatch.setattr("builtins.print", full)
    child = Child(["serving.edge.serve"], lambda: FakeProcess.now)
    child.keep()
    child._process.code = 1
    child.keep()
    assert len(FakeProcess.started) == 2


@pytest.mark.parametrize(
    ("http", "status", "code"),
    [(200, "ready", 0), (200, "degraded", 1), (503, "not ready", 1), (503, "draining", 1)],
)
def test_the_health_check_passes_only_while_the_model_answers(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, http: int, status: str, code: int
) -> None:
    class Ready(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            assert self.path == "/readyz"
            self.send_response(http)
            self.end_headers()
            self.wfile.write(json.dumps({"status": status}).encode())

        def log_message(self, *_: object) -> None: ...

    with HTTPServer(("127.0.0.1", 0), Ready) as edge:
        monkeypatch.setenv("TIDEGATE_EDGE_PORT", str(edge.server_port))
        thread = threading.Thread(target=edge.handle_request)
        thread.start()
        assert container.main(["health"]) == code
        thread.join()
    assert json.loads(capsys.readouterr().out) == {"status": status}
    assert container.main(["health"]) == 1
    assert "does not answer" in capsys.readouterr().out


def test_an_edge_that_cannot_start_ends_the_container_with_an_error(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setattr(container, "CHECK_SECONDS", 0.01)
    monkeypatch.setattr(Child, "keep", lambda self: setattr(self, "failures", self.failures + 1))
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    try:
        assert container.main([]) == 1
    finally:
        for number, handler in zip((signal.SIGTERM, signal.SIGINT), before, strict=True):
            signal.signal(number, handler)
    assert "the edge does not stay up" in capsys.readouterr().err
