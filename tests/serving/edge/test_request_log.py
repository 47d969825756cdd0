"""What the edge writes down: the served log and kept requests; and that none of it names a user."""

from __future__ import annotations

import io
import json
import logging
import os
from collections.abc import Iterator
from datetime import UTC, date, datetime
from pathlib import Path

import fake_torchserve
import pytest
from fake_torchserve import FakeTorchServe
from running import Edge, Start, wait_until

from config.files import append_lines
from experiments.lineage.served_log import read_lines
from serving.edge import request_log
from serving.edge.request_log import (
    LineLog,
    Retention,
    hash_inputs,
)
from web.service_log import JsonLines

PERSONAL = ("ann-lee", "ann@example.org", "25-34", "seen-item")


def test_a_line_holds_the_answer_and_where_it_came_from(edge: Edge) -> None:
    body = {"user_id": "ann", "k": 2, "time": "2026-02-03T04:05:06Z", "request_id": "r-1"}
    answers = [edge.answer(body), edge.answer(body), edge.answer({"history": [], "k": 1})]
    first, second, third = edge.served()
    assert first["items"] == [item["item_id"] for item in answers[0]["items"]] == ["ann-000", "ann-001"]
    for name in ("source", "reason", "model_version", "dataset_version", "request_id", "trends_time", "segments"):
        assert first[name] == answers[0][name]
    assert (first["cache"], second["cache"]) == ("miss", "hit")
    assert (first["request_time"], first["k"], first["consent"]) == ("2026-02-03T04:05:06Z", 2, "not_asked")
    assert first["user"] == second["user"] != third["user"]
    assert third["user"] is None
    assert third["request_id"] == answers[2]["request_id"]
    assert edge.count("tidegate_edge_served_lines_total", outcome="written") == 3


def test_a_user_stands_under_a_hash_that_only_the_secret_gives(start: Start) -> None:
    one, two = start(), start()  # each with a secret of its own
    body = {
        "user_id": PERSONAL[0],
        "context": {"mail": PERSONAL[1], "age_band": PERSONAL[2]},
        "history": [{"item_id": PERSONAL[3], "event_time": "2026-01-01T00:00:00Z"}],
        "exclude": ["*"],
    }
    names = []
    for edge in (one, two):
        edge.service.pipeline.fallback.popular.items[0]["item_id"] = "popular"
        edge.answer(body | {"k": 1})
        (line,) = edge.served()
        line.pop("items")  # the fake names its items after the user
        assert not [word for word in PERSONAL if word in json.dumps(line)]
        names.append(line["user"])
    assert len(names[0]) == 32
    assert names[0] != names[1]


REQUEST = {
    "user_id": "ann",
    "k": 2,
    "history": [{"item_id": "seen-item", "event_time": "2026-01-01T00:00:00Z"}],
    "context": {"age_band": "25-34"},
}


def test_a_line_names_the_source_of_the_history_and_the_fields_it_leaves_out(edge: Edge) -> None:
    edge.answer({"user_id": "ann", "time": "2026-01-02T00:00:00Z"})
    edge.answer(REQUEST)
    edge.answer({"k": 3})
    edge.answer(REQUEST | {"exclude": ["x"]}, x_consent="denied")
    lines = edge.served()
    assert [line["history_source"] for line in lines] == ["store", "request", "none", "withheld"]
    assert [line["unlogged_fields"] for line in lines] == [[], ["context", "history"], [], ["exclude"]]
    assert {line["dataset"] for line in lines} == {"tiny"}
    assert not (edge.settings.home / "requests").exists()


def test_digests_of_inputs_are_hashed_under_the_secret(start: Start, torchserve: FakeTorchServe) -> None:
    torchserve.inputs = {"history": "0123", "traits": "4567", "trends": "89ab"}
    names = []
    for edge in (start(), start()):  # each with a secret of its own
        edge.answer({"user_id": "ann"})
        (line,) = edge.served()
        assert line["inputs"] == hash_inputs(edge.service.user_key.secret, torchserve.inputs)
        assert line["inputs"]["trends"] == "89ab"  # everybody's events
        assert "0123" not in json.dumps(line)
        names.append(line["inputs"]["history"])
    assert names[0] != names[1]


@pytest.mark.parametrize("garbage", [None, "text", ["a"], {"history": None}])
def test_an_answer_without_digests_of_inputs_is_given_all_the_same(
    edge: Edge, torchserve: FakeTorchServe, garbage: object
) -> None:
    torchserve.inputs = garbage
    assert edge.answer({"user_id": "ann"})["source"] == "personalized"


def test_requests_are_kept_if_configured_without_their_user_and_for_the_owner_only(start: Start) -> None:
    edge = start(keep_requests=True)
    edge.answer(REQUEST | {"request_id": "r-1", "time": "2026-01-02T00:00:00Z"})
    edge.answer({"user_id": "ann", "request_id": "r-2"})  # its line holds all of it
    edge.answer(REQUEST | {"request_id": "r-3"}, x_consent="denied")
    edge.service.kept_requests.flush()
    (file,) = (edge.settings.home / "requests").iterdir()
    (line,) = map(json.loads, file.read_text(encoding="utf-8").splitlines())
    assert (line["request_id"], line["request_time"]) == ("r-1", "2026-01-02T00:00:00Z")
    assert line["body"] == {name: REQUEST[name] for name in ("k", "history", "context")} | {
        "time": line["request_time"]
    }
    assert (edge.settings.home / "requests").stat().st_mode & 0o077 == 0


def test_a_full_disk_costs_lines_but_no_answer(edge: Edge, monkeypatch: pytest.MonkeyPatch, caplog) -> None:
    full = Path("/dev/full")
    monkeypatch.setattr(
        request_log, "append_lines", lambda path, content, durable: append_lines(full, content, durable)
    )
    for number in range(3):
        assert edge.answer({"user_id": "ann", "k": number + 1})["source"] == "personalized"
        wait_until(lambda lost=number + 1: edge.count("tidegate_edge_served_lines_total", outcome="failed") == lost)
    assert caplog.text.count("the served log is not written: [Errno 28] No space left on device") == 1
    monkeypatch.setattr(request_log, "append_lines", append_lines)  # room again
    edge.answer({"user_id": "ann", "request_id": "after"})
    assert [line["request_id"] for line in edge.served()] == ["after"]


def test_a_full_queue_drops_and_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(request_log, "FLUSH_SECONDS", 60)
    counts: dict[str, int] = {}
    log = LineLog(tmp_path, 2, lambda outcome, lines: counts.update({outcome: counts.get(outcome, 0) + lines}))
    for line in (b"1", b"2", b"3", b"4"):
        log.append(line)
    log.close()
    assert counts == {"dropped": 2, "written": 2}
    (file,) = tmp_path.iterdir()
    assert file.read_bytes() == b"1\n2\n"


def test_a_line_that_a_killed_edge_left_unfinished_hides_no_later_line(tmp_path: Path) -> None:
    # In a container each edge has the same process id, so a new one writes on in the old one's file.
    (tmp_path / f"served-{datetime.now(UTC):%Y-%m-%d}-{os.getpid()}-0001.jsonl").write_bytes(
        b'{"request_id":"a"}\n{"requ'
    )
    log = LineLog(tmp_path, 2, lambda outcome, lines: None)
    log.append(b'{"request_id":"b"}')
    log.close()
    assert [line["request_id"] for line in read_lines(tmp_path)] == ["a", "b"]


def test_a_full_file_is_followed_by_the_next_and_all_are_read(tmp_path: Path) -> None:
    log = LineLog(tmp_path, 100, lambda outcome, lines: None, file_bytes=40)
    for number in range(6):
        log.append(b'{"request_id":"r-%d"}' % number)
        log.flush()
    log.close()

    assert len(list(tmp_path.iterdir())) == 3
    assert [line["request_id"] for line in read_lines(tmp_path)] == [f"r-{number}" for number in range(6)]


TODAY = date(2026, 3, 31)


def write_days(folder: Path, *days: str) -> None:
    for age, day in enumerate(sorted(days, reverse=True)):
        file = folder / f"served-2026-{day}-1-0001.jsonl"
        file.write_bytes(b"x" * 99 + b"\n")
        os.utime(file, (1_800_000_000 - age, 1_800_000_000 - age))


def days_in(folder: Path) -> list[str]:
    return sorted(file.name[12:17] for file in folder.iterdir())


def test_lines_expire_by_the_day(tmp_path: Path) -> None:
    write_days(tmp_path, "03-31", "03-25", "03-24", "03-23", "01-01")
    (tmp_path / "served-2026-03-01-7.jsonl").write_bytes(b"named as before files had numbers")
    Retention(7, 10_000).remove_expired(tmp_path, "served", TODAY)

    assert days_in(tmp_path) == ["03-24", "03-25", "03-31"]


def test_the_oldest_files_of_a_log_that_is_too_large_are_removed_before_their_time(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_days(tmp_path, "03-31", "03-30", "03-29", "03-28")
    (tmp_path / "requests-2026-03-01-1-0001.jsonl").write_bytes(b"of another log")
    Retention(30, 250).remove_expired(tmp_path, "served", TODAY)

    (tmp_path / "requests-2026-03-01-1-0001.jsonl").unlink()
    assert days_in(tmp_path) == ["03-30", "03-31"]
    assert caplog.text.count("was removed before its 30 days") == 2


def test_a_running_edge_removes_what_has_expired_of_both_logs(start: Start, tmp_path: Path) -> None:
    old = []
    for name in ("served", "requests"):
        folder = tmp_path / "edge-0" / name
        folder.mkdir(parents=True)
        old.append(folder / f"{name}-2020-01-01-1-0001.jsonl")
        old[-1].write_bytes(b"{}\n")
    edge = start(
        home=tmp_path / "edge-0", user_secret="of this test alone"
    )  # it keeps no requests now, an earlier one did
    edge.answer({"user_id": "ann"})

    wait_until(lambda: not any(file.exists() for file in old))
    assert len(edge.served()) == 1


def test_no_line_of_the_served_log_waits_for_the_disk(edge: Edge, monkeypatch: pytest.MonkeyPatch) -> None:
    synced = []
    monkeypatch.setattr(os, "fsync", synced.append)
    for number in range(3):
        edge.answer({"user_id": "ann", "k": number + 1})
    assert len(edge.served()) == 3
    assert not synced


def test_waiting_lines_are_written_at_the_end(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(request_log, "FLUSH_SECONDS", 60)
    edge = start()
    edge.answer({"user_id": "ann"})
    edge.close()
    (file,) = (edge.settings.home / "served").iterdir()
    assert len(file.read_text(encoding="utf-8").splitlines()) == 1
    edge.close = lambda: None


SECRETS = ("secret-user", "what-she-watched", "what-she-hid", "where-she-is", "what-she-wants")
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
    """All that any logger of this process writes, at the lowest level, in the edge's format."""
    output = io.StringIO()
    handler = logging.StreamHandler(output)
    handler.setFormatter(JsonLines())
    root = logging.getLogger()
    before = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    yield output
    root.removeHandler(handler)
    root.setLevel(before)


def lines(output: io.StringIO) -> list[dict]:
    return [json.loads(line) for line in output.getvalue().splitlines() if '"logger":"http' not in line]


@pytest.fixture
def silent_edge(start: Start, monkeypatch: pytest.MonkeyPatch) -> Edge:
    """An edge whose TorchServe names no item after its user, as the fake one does."""
    original = fake_torchserve.recommendations
    monkeypatch.setattr(
        fake_torchserve, "recommendations", lambda body, version: original(body | {"user_id": None}, version)
    )
    return start(cache="off")


def send_every_kind_of_request(edge: Edge, torchserve: FakeTorchServe, monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests that are answered, refused at each check, and met by each fault."""
    assert edge.answer(BODY)["source"] == "personalized"
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
    monkeypatch.setattr(edge.service.pipeline.consent, "decide", fail)
    assert edge.answer(BODY)["source"] == "static"


async def fail(*_: object) -> None:
    raise KeyError(USER, SEEN)


def test_nothing_that_is_written_names_a_user_or_the_content_of_a_request(
    silent_edge: Edge, torchserve: FakeTorchServe, logged: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    send_every_kind_of_request(silent_edge, torchserve, monkeypatch)
    assert len(silent_edge.served()) == 8
    files = [path for path in silent_edge.settings.home.rglob("*") if path.is_file()]
    assert {path.name for path in files} >= {"keys.json", "static.json"}
    written = {str(path): path.read_text(encoding="utf-8") for path in files} | {
        "log": "\n".join(map(json.dumps, lines(logged)))
    }
    for secret in (*SECRETS, silent_edge.key, "wrong_key-that-was-sent"):
        assert [place for place, text in written.items() if secret in text] == [], secret


def test_each_log_line_is_an_object_and_names_its_request_if_there_is_one(
    silent_edge: Edge, torchserve: FakeTorchServe, logged: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    send_every_kind_of_request(silent_edge, torchserve, monkeypatch)
    records = lines(logged)
    assert all({"time", "level", "logger", "event"} <= set(line) for line in records)
    (failure,) = [line for line in records if line["level"] == "error"]
    assert (failure["error"], failure["request_id"]) == ("KeyError", "r-1")
    assert any(place.startswith("test_request_log.py:") for place in failure["where"])
