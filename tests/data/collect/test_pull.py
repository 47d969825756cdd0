"""A pull sends each row of a file or URL once, whatever fails or is killed on the way."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from collector_app import RunningCollector
from flaky_server import FlakyServer

from config.command import UserError
from config.paths import ROOT
from data.collect import pull as module
from data.collect.pull import BATCH_BYTES, BATCH_ROWS, Checkpoint, Collector, Pull, main, summary
from data.collect.rejected_store import RejectedStore
from data.collect.schema import Identify, Item, View
from data.times import from_iso

PAST = "2026-01-02T03:04:05"
Run = Callable[..., Checkpoint | None]


@pytest.fixture(autouse=True)
def _direct(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture
def serve() -> Iterator[Callable[..., FlakyServer]]:
    running: list[FlakyServer] = []

    def start(content: bytes, etag: str = '"1"') -> FlakyServer:
        running.append(FlakyServer(content, etag))
        return running[-1]

    yield start
    for server in running:
        server.close()


@pytest.fixture
def reports() -> list[str]:
    return []


@pytest.fixture
def crm(collector: RunningCollector) -> str:
    """A key that may send profiles."""
    key = collector.make_key("crm", profiles=True)
    collector.app.state.service.authenticator.reload(force=True)
    return key


@pytest.fixture
def run(collector: RunningCollector, crm: str, tmp_path: Path, reports: list[str]) -> Run:
    """Pull a source into the collector."""

    def begin(source: str | Path, target: Any = "users", url: str = collector.url, patience: float = 20) -> Any:
        pull = Pull(str(source), target, "crm", tmp_path / "pulls", None, patience, reports.append)
        return pull.run(Collector(url, crm, target, patience, reports.append))

    return begin


def users(count: int, **fields: Any) -> bytes:
    return b"".join(json.dumps({"user_id": f"u{number}"} | fields).encode() + b"\n" for number in range(count))


def stored(collector: RunningCollector) -> list[str]:
    return [event.user_id or "" for event in collector.events()]


def test_a_download_goes_on_after_errors_and_cut_off_answers(
    collector: RunningCollector, run: Run, serve: Callable[..., FlakyServer], reports: list[str]
) -> None:
    server = serve(users(300))
    server.faults = [503, -100, 429, -50, None]
    checkpoint = run(f"{server.url}/users.jsonl")
    assert checkpoint is not None
    assert summary(checkpoint) == "300 rows sent: 300 accepted"
    assert stored(collector) == [f"u{number}" for number in range(300)]
    assert [headers.get("range") for headers in server.requests] == [
        None,
        None,
        "bytes=100-",
        "bytes=100-",
        "bytes=150-",
    ]
    assert [text.partition(";")[0].rpartition(" ")[2] for text in reports if "status" in text] == ["503", "429"]


def test_a_version_that_appears_during_a_download_is_downloaded_whole(
    collector: RunningCollector, run: Run, serve: Callable[..., FlakyServer]
) -> None:
    server = serve(users(3))
    server.faults = [-30, 503]
    answer = server.answer

    def change(handler: Any) -> None:
        if len(server.requests) == 2:
            server.content, server.etag = b'{"user_id": "new"}\n', '"2"'
        answer(handler)

    server.answer = change  # type: ignore[method-assign]
    run(f"{server.url}/users.jsonl")
    assert stored(collector) == ["new"]


def test_an_unchanged_source_is_not_sent_again_and_a_changed_one_is(
    collector: RunningCollector, run: Run, serve: Callable[..., FlakyServer]
) -> None:
    server = serve(users(3, event_time=PAST))
    url = f"{server.url}/users.jsonl"
    assert run(url) is not None
    assert run(url) is None
    server.content, server.etag = users(4, event_time=PAST), '"2"'
    checkpoint = run(url)
    assert checkpoint is not None
    assert checkpoint.counts == {"duplicate": 3, "accepted": 1}
    assert stored(collector) == ["u0", "u1", "u2", "u3"]


def test_a_value_that_returns_in_a_later_version_counts(collector: RunningCollector, run: Run, tmp_path: Path) -> None:
    for plan in ("free", "pro", "free"):
        (tmp_path / "users.csv").write_text(
            f"user_id,plan,note\nann,{plan},{'x' * len(stored(collector))}\n", encoding="utf-8"
        )
        run(tmp_path / "users.csv")
    plans = [event.traits["plan"] for event in collector.events() if isinstance(event, Identify)]
    assert plans == ["free", "pro", "free"]


def test_a_pull_that_stopped_between_any_two_steps_goes_on_where_it_was(
    collector: RunningCollector, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = 3 * BATCH_ROWS
    (tmp_path / "users.jsonl").write_bytes(users(count))

    class Killed(Exception):
        pass

    steps = 0
    with monkeypatch.context() as patch:
        for owner, name in ((Collector, "_post"), (Pull, "_save")):
            original = getattr(owner, name)

            def step(*arguments: Any, original: Any = original) -> Any:
                nonlocal budget
                if not budget:
                    raise Killed
                budget -= 1
                return original(*arguments)

            patch.setattr(owner, name, step)
        while True:
            budget = steps
            steps += 1
            try:
                checkpoint = run(tmp_path / "users.jsonl")
                break
            except Killed:
                pass
    assert steps > 3
    assert checkpoint is not None
    assert checkpoint.rows == count
    assert sorted(stored(collector)) == sorted(f"u{number}" for number in range(count))


def test_a_limited_or_unready_collector_gets_the_rows_later_and_once(
    start: Callable[..., RunningCollector], tmp_path: Path, reports: list[str]
) -> None:
    collector = start(events_per_second=40)
    key = collector.make_key("crm", profiles=True)
    (tmp_path / "users.jsonl").write_bytes(users(2_600))
    pull = Pull(str(tmp_path / "users.jsonl"), "users", "crm", tmp_path / "pulls", None, 20, reports.append)
    checkpoint = pull.run(Collector(collector.url, key, "users", 20, reports.append))
    assert checkpoint is not None
    assert checkpoint.counts == {"accepted": 2_600}
    assert any("status 429" in text for text in reports)
    assert len(set(stored(collector))) == len(stored(collector)) == 2_600


def test_without_a_collector_the_pull_ends_after_its_patience_and_can_be_repeated(
    collector: RunningCollector, run: Run, tmp_path: Path
) -> None:
    (tmp_path / "users.jsonl").write_bytes(users(2))
    with pytest.raises(httpx.ConnectError):
        run(tmp_path / "users.jsonl", url="http://127.0.0.1:9", patience=0.5)
    run(tmp_path / "users.jsonl")
    assert stored(collector) == ["u0", "u1"]


def test_bad_rows_are_counted_and_the_first_are_reported(
    collector: RunningCollector, run: Run, tmp_path: Path, reports: list[str]
) -> None:
    rows = [b'{"plan": "free"}'] * 12 + [b"no JSON", b'{"user_id": "big", "x": "%s"}' % (b"x" * 2 * BATCH_BYTES)]
    (tmp_path / "users.jsonl").write_bytes(b"\n".join([*rows, users(1)]))
    checkpoint = run(tmp_path / "users.jsonl")
    assert checkpoint is not None
    assert checkpoint.counts == {"rejected": 14, "accepted": 1}
    assert reports == [f"row {n}: schema: userId expected userId, anonymousId or both" for n in range(1, 11)]
    reasons = [event.reason for event in RejectedStore(collector.settings.home).search()]
    assert sorted(reasons) == [*["schema"] * 13, "size"]


def test_flat_rows_and_messages_become_events(collector: RunningCollector, run: Run, tmp_path: Path) -> None:
    flat = {"user_id": "ann", "event": "view", "event_time": PAST, "item_id": "film-1", "position": 3}
    message = {"type": "identify", "messageId": "m", "userId": "ann", "traits": {"plan": "free"}}
    lines = [json.dumps(flat), json.dumps(flat), json.dumps(message), "no JSON"]
    (tmp_path / "events.jsonl").write_text("\n".join(lines), encoding="utf-8")
    checkpoint = run(tmp_path / "events.jsonl", "events")
    assert checkpoint is not None
    assert checkpoint.counts == {"accepted": 3, "rejected": 1}
    first, second, third = collector.events()
    assert isinstance(first, View)
    assert (first.user_id, first.item_id, first.position, first.event_time) == ("ann", "film-1", 3, from_iso(PAST))
    assert second.event_id != first.event_id
    assert third.event_id == "m"


def test_items_come_from_parquet_and_compressed_csv(collector: RunningCollector, run: Run, tmp_path: Path) -> None:
    columns = {"item_id": [f"i{number}" for number in range(1_200)], "title": ["A"] * 1_200}
    pq.write_table(pa.table(columns), tmp_path / "items.parquet", row_group_size=500)
    run(tmp_path / "items.parquet", "items")
    (tmp_path / "items.csv.gz").write_bytes(gzip.compress(b"item_id,title,genres\nlast,B,Drama|War\n"))
    run(tmp_path / "items.csv.gz", "items")
    items = [event for event in collector.events() if isinstance(event, Item)]
    assert len(items) == 1_201
    assert (items[-1].item_id, items[-1].genres) == ("last", ("Drama", "War"))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("users.txt", b"", "expected a name that ends with"),
        ("users.csv", b"user_id\n\xff\n", "after row 0: it is no CSV in UTF-8"),
        ("users.parquet", b"PAR1", "after row 0: it is no Parquet file"),
        ("users.csv.gz", b"no gzip", "after row 0: Not a gzipped file"),
        (None, None, "No such file"),
    ],
)
def test_an_unusable_source_is_one_error(run: Run, tmp_path: Path, name: str, content: bytes, message: str) -> None:
    if name:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        run(tmp_path / (name or "users.csv"))


def test_a_refused_key_or_source_is_not_tried_again(
    collector: RunningCollector, run: Run, serve: Callable[..., FlakyServer], tmp_path: Path
) -> None:
    server = serve(b"")
    server.faults = [404]
    with pytest.raises(UserError, match="responded with status 404"):
        run(f"{server.url}/users.csv")
    (tmp_path / "users.jsonl").write_bytes(users(1))
    pull = Pull(str(tmp_path / "users.jsonl"), "users", "crm", tmp_path / "pulls", None, 20, print)
    with pytest.raises(UserError, match="the write key may not send users and items"):
        pull.run(Collector(collector.url, collector.key, "users", 20, print))


def test_the_command_prints_what_it_sent(
    collector: RunningCollector, crm: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    (tmp_path / "users.jsonl").write_bytes(users(2))
    monkeypatch.setenv("TIDEGATE_COLLECT_HOME", str(collector.settings.home))
    arguments = [str(tmp_path / "users.jsonl"), "--to", "users", "--collector", collector.url]
    assert main(arguments) == 2
    assert "set TIDEGATE_WRITE_KEY" in capsys.readouterr().err
    monkeypatch.setenv(module.KEY, crm)
    assert main(arguments) == 0
    assert capsys.readouterr().out == "2 rows sent: 2 accepted\n"
    assert main(arguments) == 0
    assert capsys.readouterr().out == "the source has not changed since it was sent\n"
    assert main([str(tmp_path / "users.jsonl"), "--to", "users", "--collector", "http://127.0.0.1:9", "--patience",
                 "0.1", "--name", "other"]) == 2  # fmt: skip
    assert capsys.readouterr().err.endswith("run the command again to go on\n")


@pytest.mark.slow
def test_a_pull_killed_at_random_moments_sends_each_row_once(
    collector: RunningCollector, crm: str, tmp_path: Path, serve: Callable[..., FlakyServer]
) -> None:
    server = serve(users(20 * BATCH_ROWS))
    command = [sys.executable, "-m", "data.collect.pull", f"{server.url}/users.jsonl", "--to", "users"]
    environment = {module.KEY: crm, "TIDEGATE_COLLECT_HOME": str(tmp_path), "NO_PROXY": "127.0.0.1"}
    for kill in range(30):
        with subprocess.Popen([*command, "--collector", collector.url], env=environment, cwd=ROOT) as process:
            for _ in range(200):
                if len(collector.logged()) > kill * 2 * BATCH_ROWS or process.poll() is not None:
                    break
                time.sleep(0.01)
            process.kill()
        if process.returncode == 0:
            break
    assert process.returncode == 0
    assert kill > 1
    assert sorted(stored(collector)) == sorted(f"u{number}" for number in range(20 * BATCH_ROWS))
