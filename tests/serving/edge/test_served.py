"""The served log says what was answered to whom, names nobody, and fails alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from fake_torchserve import FakeTorchServe
from running import Edge, Start, wait_until

from serving.edge import served
from serving.edge.pseudonym import hidden
from serving.edge.served import ServedLog

SECRET_WORDS = ("ann-lee", "ann@example.org", "25-34", "seen-item")


def test_a_line_holds_the_answer_and_its_lineage(edge: Edge) -> None:
    body = {"user_id": "ann", "k": 2, "time": "2026-02-03T04:05:06Z", "request_id": "r-1"}
    answers = [edge.answer(body), edge.answer(body), edge.answer({"history": [], "k": 1})]
    first, second, third = edge.served()
    assert first["items"] == [item["item_id"] for item in answers[0]["items"]] == ["ann-000", "ann-001"]
    for name in ("rung", "reason", "model_version", "dataset_version", "request_id", "trends_time", "segments"):
        assert first[name] == answers[0][name]
    assert (first["cache"], second["cache"]) == ("miss", "hit")
    assert (first["asked"], first["k"], first["consent"]) == ("2026-02-03T04:05:06Z", 2, "unasked")
    assert first["user"] == second["user"] != third["user"]
    assert third["user"] is None
    assert third["request_id"] == answers[2]["request_id"]
    assert edge.count("tidegate_edge_served_lines_total", outcome="written") == 3


def test_a_user_is_known_by_a_hash_that_only_the_secret_gives(start: Start) -> None:
    one, two = start(), start()  # each with a secret of its own
    body = {
        "user_id": SECRET_WORDS[0],
        "context": {"mail": SECRET_WORDS[1], "age_band": SECRET_WORDS[2]},
        "history": [{"item_id": SECRET_WORDS[3], "event_time": "2026-01-01T00:00:00Z"}],
        "exclude": ["*"],
    }
    names = []
    for edge in (one, two):
        edge.app.service.ladder.popular.items[0]["item_id"] = "popular"
        edge.answer(body | {"k": 1})
        (line,) = edge.served()
        line.pop("items")  # the fake names its items after the user
        assert not [word for word in SECRET_WORDS if word in json.dumps(line)]
        names.append(line["user"])
    assert len(names[0]) == 32
    assert names[0] != names[1]


STATED = {
    "user_id": "ann",
    "k": 2,
    "history": [{"item_id": "seen-item", "event_time": "2026-01-01T00:00:00Z"}],
    "context": {"age_band": "25-34"},
}


def test_a_line_says_whose_history_an_answer_rests_on_and_what_it_leaves_out(edge: Edge) -> None:
    edge.answer({"user_id": "ann", "time": "2026-01-02T00:00:00Z"})
    edge.answer(STATED)
    edge.answer({"k": 3})
    edge.answer(STATED | {"exclude": ["x"]}, x_consent="denied")
    lines = edge.served()
    assert [line["basis"] for line in lines] == ["stored", "stated", "nobody", "withheld"]
    assert [line["unlogged"] for line in lines] == [[], ["context", "history"], [], ["exclude"]]
    assert {line["dataset"] for line in lines} == {"tiny"}
    assert not (edge.settings.home / "requests").exists()


def test_the_digests_of_what_was_read_are_under_the_secret(start: Start, torchserve: FakeTorchServe) -> None:
    torchserve.inputs = {"history": "0123", "traits": "4567", "trends": "89ab"}
    names = []
    for edge in (start(), start()):  # each with a secret of its own
        edge.answer({"user_id": "ann"})
        (line,) = edge.served()
        assert line["inputs"] == hidden(edge.app.service.secret, torchserve.inputs)
        assert line["inputs"]["trends"] == "89ab"  # of everybody's events, and of nobody's
        assert "0123" not in json.dumps(line)
        names.append(line["inputs"]["history"])
    assert names[0] != names[1]


@pytest.mark.parametrize("garbage", [None, "text", ["a"], {"history": None}])
def test_a_worker_that_says_nothing_of_what_it_read_is_answered_for_as_ever(
    edge: Edge, torchserve: FakeTorchServe, garbage: object
) -> None:
    torchserve.inputs = garbage
    assert edge.answer({"user_id": "ann"})["rung"] == "personalised"


def test_requests_are_kept_where_that_is_asked_for_without_their_user_and_for_the_owner_alone(start: Start) -> None:
    edge = start(keep_requests=True)
    edge.answer(STATED | {"request_id": "r-1", "time": "2026-01-02T00:00:00Z"})
    edge.answer({"user_id": "ann", "request_id": "r-2"})  # its line says all of it
    edge.answer(STATED | {"request_id": "r-3"}, x_consent="denied")
    edge.app.service.kept.flush()
    (file,) = (edge.settings.home / "requests").iterdir()
    (line,) = map(json.loads, file.read_text().splitlines())
    assert (line["request_id"], line["asked"]) == ("r-1", "2026-01-02T00:00:00Z")
    assert line["body"] == {name: STATED[name] for name in ("k", "history", "context")} | {"time": line["asked"]}
    assert (edge.settings.home / "requests").stat().st_mode & 0o077 == 0


def test_a_full_disk_costs_lines_and_no_answer(edge: Edge, monkeypatch: pytest.MonkeyPatch, caplog) -> None:
    log = edge.app.service.served
    whole = log._file
    monkeypatch.setattr(log, "_file", lambda: Path("/dev/full"))
    for number in range(3):
        assert edge.answer({"user_id": "ann", "k": number + 1})["rung"] == "personalised"
        wait_until(lambda lost=number + 1: edge.count("tidegate_edge_served_lines_total", outcome="failed") == lost)
    assert caplog.text.count("the served log is not written: [Errno 28] No space left on device") == 1
    monkeypatch.setattr(log, "_file", whole)  # room again
    edge.answer({"user_id": "ann", "request_id": "after"})
    assert [line["request_id"] for line in edge.served()] == ["after"]


def test_half_a_line_is_taken_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "log.jsonl"
    served.append(path, b'{"whole":1}\n')
    real_open = Path.open

    class Narrow:
        """A file whose disk has room for five bytes more."""

        def __init__(self, file) -> None:
            self._file, self._room = file, 5

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self._file.close()

        def __getattr__(self, name):
            return getattr(self._file, name)

        def write(self, content: bytes) -> int:
            if not self._room:
                raise OSError(28, "No space left on device")
            written = self._file.write(content[: self._room])
            self._room -= written
            return written

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", lambda self, *args, **more: Narrow(real_open(self, *args, **more)))
        with pytest.raises(OSError, match="No space"):
            served.append(path, b'{"lost":1}\n')
    served.append(path, b'{"next":1}\n')
    assert path.read_bytes() == b'{"whole":1}\n{"next":1}\n'


def test_a_full_queue_drops_and_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(served, "FLUSH_SECONDS", 60)
    told: dict[str, int] = {}
    log = ServedLog(tmp_path, 2, lambda outcome, lines: told.update({outcome: told.get(outcome, 0) + lines}))
    for line in (b"1", b"2", b"3", b"4"):
        log.append(line)
    log.close()
    assert told == {"dropped": 2, "written": 2}
    (file,) = tmp_path.iterdir()
    assert file.read_bytes() == b"1\n2\n"


def test_what_waits_is_written_at_the_end(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(served, "FLUSH_SECONDS", 60)
    edge = start()
    edge.answer({"user_id": "ann"})
    edge.close()
    (file,) = (edge.settings.home / "served").iterdir()
    assert len(file.read_text().splitlines()) == 1
    edge.close = lambda: None


def test_the_log_can_be_turned_off(start: Start) -> None:
    edge = start(served_log=False)
    edge.answer({"user_id": "ann"})
    assert not (edge.settings.home / "served").exists()
