"""What the edge writes down of requests: JSON lines that say what happened, and not whom or what it was about."""

from __future__ import annotations

import io
import json
import logging
import logging.config
import sys
from collections.abc import Iterator

import fake_torchserve
import pytest
from fake_torchserve import FakeTorchServe
from running import Edge, Start

from serving.edge import log_lines

SECRETS = ("whom-nobody-may-see", "what-she-watched", "what-she-hid", "where-she-is", "what-she-wants")
USER, SEEN, HIDDEN, PLACE, TASTE = SECRETS
BODY = {
    "user_id": USER,
    "history": [{"item_id": SEEN, "event_time": "2026-01-01T00:00:00Z"}],
    "exclude": [HIDDEN],
    "context": {"place": PLACE},
    "filters": {"genres": [TASTE]},
    "request_id": "r-1",
}


@pytest.fixture
def logged() -> Iterator[io.StringIO]:
    """All that any logger of this process says, at the lowest level, as the edge would write it."""
    said = io.StringIO()
    handler = logging.StreamHandler(said)
    handler.setFormatter(log_lines.JsonLines())
    root = logging.getLogger()
    before = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    yield said
    root.removeHandler(handler)
    root.setLevel(before)


def lines(said: io.StringIO) -> list[dict]:
    return [json.loads(line) for line in said.getvalue().splitlines() if '"logger":"http' not in line]


@pytest.fixture
def discreet(start: Start, monkeypatch: pytest.MonkeyPatch) -> Edge:
    """An edge whose TorchServe names no item after its user, as the fake one does."""
    told = fake_torchserve.recommendations
    monkeypatch.setattr(
        fake_torchserve, "recommendations", lambda body, version: told(body | {"user_id": None}, version)
    )
    return start(cache="off")


def ask_in_every_way(edge: Edge, torchserve: FakeTorchServe, monkeypatch: pytest.MonkeyPatch) -> None:
    """Answered, refused at each gate, and failed at each part."""
    assert edge.answer(BODY)["rung"] == "personalised"
    assert edge.get(f"user_id={USER}&exclude={HIDDEN}&context.place={PLACE}").status_code == 200
    assert edge.ask(BODY, key="tidegate_wrong_key-that-was-sent").status_code == 401
    assert edge.ask(BODY, key=edge.key_of("ann")).status_code == 403
    assert edge.ask(BODY | {"context": {PLACE: []}}).status_code == 400
    assert edge.ask(BODY | {"time": USER}).status_code == 400
    assert edge.ask(json.dumps(BODY).encode() + b"}").status_code == 400
    assert edge.get(f"user_id={USER}&user_id={USER}").status_code == 400
    assert edge.http.get(f"/users/{USER}").status_code == 404
    for mode in ("failing", "garbage", "noise", "closing", "hung"):
        torchserve.mode = mode
        edge.answer(BODY)
    monkeypatch.setattr(edge.app.service.ladder, "_word", fails_on_it)
    assert edge.answer(BODY)["rung"] == "static"


async def fails_on_it(ask: object) -> None:
    raise KeyError(USER, SEEN)


def test_nothing_that_is_written_tells_of_whom_or_what_a_request_was(
    discreet: Edge, torchserve: FakeTorchServe, logged: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask_in_every_way(discreet, torchserve, monkeypatch)
    assert len(discreet.served()) == 8
    files = [path for path in discreet.settings.home.rglob("*") if path.is_file()]
    assert {path.name for path in files} >= {"keys.json", "user.key", "static.json"}
    written = {str(path): path.read_text() for path in files} | {"log": "\n".join(map(json.dumps, lines(logged)))}
    for secret in (*SECRETS, discreet.key, "wrong_key-that-was-sent"):
        assert [place for place, text in written.items() if secret in text] == [], secret


def test_each_line_is_an_object_and_names_its_request_where_there_is_one(
    discreet: Edge, torchserve: FakeTorchServe, logged: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask_in_every_way(discreet, torchserve, monkeypatch)
    told = lines(logged)
    assert all({"time", "level", "logger", "event"} <= set(line) for line in told)
    (failure,) = [line for line in told if line["level"] == "error"]
    assert (failure["error"], failure["request_id"]) == ("KeyError", "r-1")
    assert any(place.startswith("test_log_lines.py:") for place in failure["where"])


def test_the_configuration_writes_such_lines_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    root = logging.getLogger()
    before = root.handlers[:], root.level
    try:
        logging.config.dictConfig(log_lines.CONFIG)
        root.handlers[0].setStream(sys.stderr)
        logging.getLogger("serving.edge.app").info("said")
        logging.getLogger("httpx").info("not said")
    finally:
        root.handlers[:], root.level = before
    (line,) = capsys.readouterr().err.splitlines()
    assert {name: json.loads(line)[name] for name in ("level", "logger", "event")} == {
        "level": "info",
        "logger": "serving.edge.app",
        "event": "said",
    }
