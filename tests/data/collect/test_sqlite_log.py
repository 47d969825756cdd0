"""The embedded event log: what it has confirmed is there, once, after kills, full disks and restarts."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from config.paths import ROOT
from data.collect.event_log import LogError, LogFull, LoggedMessage, LogUnavailable, NewMessage, Outcome, Position
from data.collect.sqlite_log import INDEX_FOLDER, NEW_FILE, SqliteEventLog, SqliteLogReader
from data.columns import DAY

NOON = 20_000 * DAY + DAY // 2


def new(message_id: str, events: bytes = b"[]", fingerprint: bytes = b"12345678") -> NewMessage:
    return NewMessage(message_id, fingerprint, "ann", events)


def outcomes(log: SqliteEventLog, *messages: NewMessage, at: int = NOON) -> list[Outcome]:
    return [receipt.outcome for receipt in log.append(at, "web", messages).result(30)]


def read(folder: Path, after: int = 0) -> list[LoggedMessage]:
    return list(SqliteLogReader(folder).read({0: after}))


def test_events_read_back_in_order_with_their_positions(tmp_path: Path) -> None:
    log = SqliteEventLog(tmp_path)
    receipts = log.append(NOON, "web", [new("a", b'[{"n":1}]'), new("b")]).result(30)
    receipts += log.append(NOON + 5, "app", [new("c")]).result(30)
    log.close()

    assert [str(receipt.position) for receipt in receipts] == ["0:1", "0:2", "0:3"]
    assert read(tmp_path) == [
        LoggedMessage(Position(0, 1), NOON, "web", "a", b'[{"n":1}]'),
        LoggedMessage(Position(0, 2), NOON, "web", "b", b"[]"),
        LoggedMessage(Position(0, 3), NOON + 5, "app", "c", b"[]"),
    ]
    assert [event.message_id for event in read(tmp_path, after=2)] == ["c"]


def test_a_message_id_is_stored_once_over_batches_days_and_restarts(tmp_path: Path) -> None:
    log = SqliteEventLog(tmp_path)
    assert outcomes(log, new("a"), new("a")) == [Outcome.STORED, Outcome.DUPLICATE]
    assert outcomes(log, new("a"), at=NOON + 3 * DAY) == [Outcome.DUPLICATE]
    log.close()

    log = SqliteEventLog(tmp_path)
    assert outcomes(log, new("a"), new("b"), at=NOON + 5 * DAY) == [Outcome.DUPLICATE, Outcome.STORED]
    assert outcomes(log, new("a", fingerprint=b"87654321")) == [Outcome.CONFLICT]
    log.close()
    assert [event.message_id for event in read(tmp_path)] == ["a", "b"]


def test_the_index_is_derived_from_the_log_where_it_is_lost(tmp_path: Path) -> None:
    log = SqliteEventLog(tmp_path)
    outcomes(log, new("a"))
    log.close()
    for path in (tmp_path / INDEX_FOLDER).iterdir():
        path.unlink()

    log = SqliteEventLog(tmp_path)
    assert outcomes(log, new("a"), new("b")) == [Outcome.DUPLICATE, Outcome.STORED]
    log.close()


def test_a_second_writer_is_refused(tmp_path: Path) -> None:
    log = SqliteEventLog(tmp_path)
    with pytest.raises(LogError, match="another process writes"):
        SqliteEventLog(tmp_path)
    log.close()


def test_a_clock_that_is_set_back_does_not_change_the_order(tmp_path: Path) -> None:
    log = SqliteEventLog(tmp_path)
    for number, at in enumerate([NOON, NOON + DAY, NOON - 2 * DAY]):
        outcomes(log, new(str(number)), at=at)
    log.close()
    assert [event.message_id for event in read(tmp_path)] == ["0", "1", "2"]


def test_days_that_are_too_old_are_deleted_and_their_ids_are_free(tmp_path: Path) -> None:
    log = SqliteEventLog(tmp_path, retention_days=1)
    for day in range(3):
        outcomes(log, new(f"day {day}"), at=NOON + day * DAY)
    assert outcomes(log, new("day 1"), new("day 0"), at=NOON + 2 * DAY) == [Outcome.DUPLICATE, Outcome.STORED]
    log.close()
    assert [message.position.offset for message in read(tmp_path)] == [2, 3, 4]
    log = SqliteEventLog(tmp_path)
    assert outcomes(log, new("day 1"), new("day 0"), at=NOON + 2 * DAY) == [Outcome.DUPLICATE] * 2
    log.close()


def test_offsets_go_on_behind_a_days_file_that_a_kill_left_empty(tmp_path: Path) -> None:
    log = SqliteEventLog(tmp_path)
    outcomes(log, new("a"))
    log._day_file(NOON // DAY + 1)
    log.close()
    log = SqliteEventLog(tmp_path)
    assert outcomes(log, new("a"), new("b"), at=NOON + DAY) == [Outcome.DUPLICATE, Outcome.STORED]
    log.close()
    assert [message.position.offset for message in read(tmp_path)] == [1, 2]


def test_a_log_opens_after_a_kill_before_a_days_file_had_its_table(tmp_path: Path) -> None:
    SqliteEventLog(tmp_path).close()
    (tmp_path / NEW_FILE).touch()
    log = SqliteEventLog(tmp_path)
    assert outcomes(log, new("a")) == [Outcome.STORED]
    log.close()
    assert sorted(path.name for path in tmp_path.glob("*.db*")) == ["events-2024-10-04.db"]


def test_a_log_that_one_thread_opened_is_closed_by_another(tmp_path: Path) -> None:
    for _ in range(2):
        log = SqliteEventLog(tmp_path)
        closer = threading.Thread(target=log.close)
        closer.start()
        closer.join()


def test_a_log_that_was_restored_to_an_earlier_state_takes_the_later_ids_again(tmp_path: Path) -> None:
    log = SqliteEventLog(tmp_path)
    outcomes(log, new("a"))
    outcomes(log, new("b"), at=NOON + DAY)
    log.close()
    for path in sorted(tmp_path.glob("events-*"))[1:]:
        path.unlink()
    log = SqliteEventLog(tmp_path)
    assert outcomes(log, new("a"), new("b"), at=NOON + DAY) == [Outcome.DUPLICATE, Outcome.STORED]
    log.close()


def test_an_index_that_refuses_loses_nothing_and_is_brought_up_to_date(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = SqliteEventLog(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(log._index, "add", lambda *_: (_ for _ in ()).throw(OSError("full")))
        assert outcomes(log, new("a")) == [Outcome.STORED]
        with pytest.raises(LogUnavailable):
            outcomes(log, new("a"))
    assert outcomes(log, new("a"), new("b")) == [Outcome.DUPLICATE, Outcome.STORED]
    log.close()
    assert [message.message_id for message in read(tmp_path)] == ["a", "b"]


def test_a_disk_that_refuses_loses_no_confirmed_event_and_stores_no_refused_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = SqliteEventLog(tmp_path)
    outcomes(log, new("a"))
    log._file._database.execute("PRAGMA max_page_count = 1")  # SQLite answers as on a full disk
    with pytest.raises(LogUnavailable, match="full"):
        outcomes(log, new("b", b"x" * 100_000))
    log._file._database.execute("PRAGMA max_page_count = 1000000")
    assert outcomes(log, new("a"), new("b")) == [Outcome.DUPLICATE, Outcome.STORED]
    log.close()
    assert [(event.position.offset, event.message_id) for event in read(tmp_path)] == [(1, "a"), (2, "b")]


def test_a_sender_that_goes_away_stops_nothing(tmp_path: Path) -> None:
    log = SqliteEventLog(tmp_path)
    answer = log.append(NOON, "web", [new("a")])
    assert not answer.cancel()
    assert outcomes(log, new("a"), new("b")) == [Outcome.DUPLICATE, Outcome.STORED]
    log.close()


WRITER = """
import itertools, sys, time
from pathlib import Path
from data.collect.event_log import NewMessage
from data.collect.sqlite_log import SqliteEventLog
log = SqliteEventLog(Path(sys.argv[1]))
for batch in itertools.count():
    messages = [NewMessage(f"{sys.argv[2]}-{batch}-{number}", b"12345678", "ann", b"[]") for number in range(20)]
    log.append(time.time_ns() // 1000, "web", messages).result()
    print(batch, flush=True)
"""


@pytest.mark.slow
def test_every_confirmed_event_is_there_once_after_kills(tmp_path: Path) -> None:
    confirmed = set()
    for run in range(5):
        command = [sys.executable, "-c", WRITER, str(tmp_path), str(run)]
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, encoding="utf-8", env=os.environ) as writer:
            lines = [writer.stdout.readline() for _ in range(20 + 7 * run)]
            writer.send_signal(signal.SIGKILL)
            lines += writer.stdout.readlines()
        confirmed |= {f"{run}-{int(line)}-{number}" for line in lines for number in range(20)}
    log = SqliteEventLog(tmp_path)
    log.close()
    stored = [event.message_id for event in read(tmp_path)]
    assert confirmed <= set(stored)
    assert len(stored) == len(set(stored))
    assert [event.position.offset for event in read(tmp_path)] == list(range(1, len(stored) + 1))


@settings(max_examples=25, deadline=None)
@given(st.lists(st.lists(st.text(max_size=4), max_size=5), max_size=8))
def test_whatever_the_batches_each_id_is_stored_once(tmp_path_factory: pytest.TempPathFactory, batches) -> None:
    folder = tmp_path_factory.mktemp("log")
    log = SqliteEventLog(folder)
    answers = [log.append(NOON, "web", [new(message_id) for message_id in batch]) for batch in batches]
    receipts = [receipt for answer in answers for receipt in answer.result(30)]
    log.close()
    sent = [message_id for batch in batches for message_id in batch]
    stored = {event.message_id: event.position for event in read(folder)}
    assert list(stored) == list(dict.fromkeys(sent))
    assert [stored[message_id] for message_id in sent] == [receipt.position for receipt in receipts]


def test_senders_are_refused_while_too_many_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("data.collect.sqlite_log.WAITING_BATCHES", 3)
    log = SqliteEventLog(tmp_path)
    hold = threading.Event()
    monkeypatch.setattr(log, "_write_group", lambda group: hold.wait(30))
    log.append(NOON, "web", [new("writing")])
    while log._waiting.qsize():
        time.sleep(0.01)
    for number in range(3):
        log.append(NOON, "web", [new(str(number))])
    with pytest.raises(LogFull):
        log.append(NOON, "web", [new("one more")])
    hold.set()
    log.close()
