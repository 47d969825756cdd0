"""Rejected events are kept and found again, and after a fix a replay stores each of them once, as of when it happened."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from collector_app import RunningCollector

from data.collect import rejected
from data.collect.messages import MAX_EVENT_BYTES
from data.collect.rejected import build_page, main
from data.collect.rejected_store import RejectedEvent, RejectedStore, Search
from data.collect.schema import PURPOSES, View
from data.times import from_iso, now_us, to_iso

Start = Callable[..., RunningCollector]
PAST = "2026-01-02T03:04:05Z"
HOUR_US = 3_600_000_000


def watched(message_id: str | None = "w1", **fields: Any) -> dict[str, Any]:
    """A message that is rejected until the mapping has the event `Watched`."""
    message = {
        "type": "track",
        "userId": "ann",
        "event": "Watched",
        "properties": {"film": "film-1"},
        "timestamp": PAST,
    }
    return message | ({} if message_id is None else {"messageId": message_id}) | fields


@pytest.fixture
def strict(start: Start, tmp_path: Path) -> Callable[..., RunningCollector]:
    """Start a collector of the same home that rejects unknown events; `fixed` maps `Watched`."""
    mapping = tmp_path / "mapping.yaml"
    mapping.write_text("Watched: {type: view, item_id: [film]}\n", encoding="utf-8")

    def begin(fixed: bool = False, **settings: Any) -> RunningCollector:
        more = {"mapping": mapping} if fixed else {}
        return start(home=tmp_path / "home", unknown="reject", **more, **settings)

    return begin


def kept(collector: RunningCollector) -> list[RejectedEvent]:
    return RejectedStore(collector.settings.home).search()


def run(collector: RunningCollector, *arguments: str, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setenv("TIDEGATE_COLLECT_HOME", str(collector.settings.home))
    return main(list(arguments))


def test_a_replay_after_a_fix_keeps_the_time_of_the_event_and_is_known_from_now_on(
    strict: Start, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    first = strict()
    assert first.send(watched(), watched("w2", timestamp=None))["w1"]["field"] == "event"
    arrived_us = kept(first)[0].known_us
    first.close()
    second = strict(fixed=True)
    before_us = now_us()
    assert run(second, "replay", monkeypatch=monkeypatch) == 0
    assert capsys.readouterr().out == "2 events accepted, 0 rejected again\n"
    given, timeless = second.events()
    assert isinstance(given, View)
    assert (given.event_id, given.item_id, given.event_time) == ("w1", "film-1", from_iso(PAST))
    assert (timeless.event_id, timeless.event_time) == ("w2", arrived_us)
    assert given.purposes == PURPOSES
    assert all(message.known_us >= before_us and message.source == "web" for message in second.logged())
    assert all(event.replayed_us is not None for event in kept(second))


def test_a_replay_corrects_the_senders_clock_as_at_the_arrival(strict: Start) -> None:
    first = strict()
    sent_us, happened_us = now_us() + HOUR_US, now_us() + HOUR_US // 2
    times = {"sentAt": to_iso(sent_us), "batch": [watched(timestamp=to_iso(happened_us))]}
    first.post("/v1/batch", times | {"context": {"locale": "de-DE"}})
    (event,) = kept(first)
    first.close()
    second = strict(fixed=True)
    assert rejected.replay(RejectedStore(second.settings.home), Search()) == (1, 0)
    (stored,) = second.events()
    assert stored.event_time == happened_us + event.known_us - sent_us
    assert stored.context is not None
    assert stored.context.locale == "de-DE"


def test_a_message_without_an_id_is_stored_once_if_its_replay_is_repeated(strict: Start) -> None:
    first = strict()
    first.post("/v1/track", watched(None))
    first.close()
    second = strict(fixed=True)
    store = RejectedStore(second.settings.home)
    assert rejected.replay(store, Search()) == (1, 0)
    with store._transaction() as database:  # as if the collector was killed before it noted the outcome
        database.execute("UPDATE events SET replayed_us = NULL")
    assert rejected.replay(store, Search()) == (1, 0)
    assert len(second.events()) == 1
    assert rejected.replay(store, Search()) == (0, 0)


def test_what_is_rejected_again_stays_with_its_new_reason(strict: Start) -> None:
    first = strict()
    first.send(watched(properties={}))
    first.close()
    second = strict(fixed=True)
    assert rejected.replay(RejectedStore(second.settings.home), Search()) == (0, 1)
    (event,) = kept(second)
    assert (event.reason, event.field, event.message, event.replayed_us) == ("schema", "item_id", "is missing", None)


def test_only_what_is_searched_for_is_replayed(strict: Start) -> None:
    first = strict()
    first.send(watched("a"), watched("b", userId="bob"))
    first.close()
    second = strict(fixed=True)
    store = RejectedStore(second.settings.home)
    assert rejected.replay(store, Search(text='"bob"')) == (1, 0)
    assert rejected.replay(store, Search(source="other")) == (0, 0)
    assert rejected.replay(store, Search(since_us=now_us())) == (0, 0)
    assert [event.user_id for event in second.events()] == ["bob"]


def test_a_replay_that_no_collector_takes_up_says_so_and_happens_when_it_starts(strict: Start) -> None:
    first = strict()
    first.send(watched())
    first.close()
    store = RejectedStore(first.settings.home)
    with pytest.raises(rejected.UserError, match="still wait: 1;"):
        rejected.replay(store, Search(), patience=0.5)
    second = strict(fixed=True)
    for _ in range(100):
        if second.events():
            break
        threading.Event().wait(0.1)
    assert [event.event_id for event in second.events()] == ["w1"]


def test_a_conflicting_message_stays_rejected(strict: Start) -> None:
    collector = strict(fixed=True)
    collector.send(watched())
    collector.send(watched(userId="bob"))
    assert rejected.replay(RejectedStore(collector.settings.home), Search(reason="conflict")) == (0, 1)
    assert [event.user_id for event in collector.events()] == ["ann"]


def test_of_an_oversized_event_the_start_is_kept_and_the_list_says_that_it_cannot_be_replayed(
    collector: RunningCollector, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    collector.send(watched(padding="x" * MAX_EVENT_BYTES))
    (event,) = kept(collector)
    assert (event.reason, len(event.body), event.is_whole) == ("size", MAX_EVENT_BYTES, False)
    run(collector, "list", "--reason", "size", monkeypatch=monkeypatch)
    assert f"cannot be replayed: {event.size} bytes came" in capsys.readouterr().out
    run(collector, "replay", monkeypatch=monkeypatch)
    assert capsys.readouterr().out == "0 events accepted, 0 rejected again\n"


def test_no_write_key_is_kept(collector: RunningCollector) -> None:
    for body in (
        watched(None, event=None, writeKey=collector.key),
        {"batch": [watched(userId=None, writeKey=collector.key), [{"writeKey": collector.key}]]},
        {"batch": [watched("big", writeKey=collector.key, padding="x" * MAX_EVENT_BYTES)], "writeKey": collector.key},
    ):
        collector.client.post("/v1/batch" if "batch" in body else "/v1/track", json=body, auth=(collector.key, ""))
    events = kept(collector)
    assert len(events) == 4
    for event in events:
        assert collector.key.encode() not in event.body
    files = b"".join(path.read_bytes() for path in collector.settings.home.glob("rejected.db*"))
    assert collector.key.encode() not in files


def test_nothing_of_a_sender_without_a_valid_key_is_kept_but_it_is_counted(collector: RunningCollector) -> None:
    assert collector.post("/v1/batch", {"batch": [watched(event=None)]}, key="wrong").status_code == 401
    assert kept(collector) == []
    metrics = collector.app.state.service.metrics.registry
    assert metrics.get_sample_value("tidegate_collect_refusals_total", {"status": "401", "reason": "key"}) == 1


def test_list_and_show_find_an_event(
    collector: RunningCollector, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    collector.send(watched("a", event=None), watched("b", timestamp="yesterday"))
    assert run(collector, "list", "--reason", "time", "--since", "2026-01-01", monkeypatch=monkeypatch) == 0
    line = capsys.readouterr().out
    assert line.startswith("#2  ")
    assert line.endswith("web  time  timestamp  'yesterday' is no ISO 8601 time\n")
    run(collector, "list", "--source", "other", monkeypatch=monkeypatch)
    assert capsys.readouterr().out == "no rejected events\n"
    run(collector, "show", "2", monkeypatch=monkeypatch)
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["timestamp"] == "yesterday"
    assert run(collector, "show", "9", monkeypatch=monkeypatch) == 2
    assert capsys.readouterr().err == "error: there is no rejected event 9\n"


def test_the_page_counts_causes_and_shows_events_without_running_what_they_hold(collector: RunningCollector) -> None:
    attack = "<script>alert(1)</script>"
    collector.send(watched("a", event=None), watched("b", event=None), watched("c", timestamp=attack))
    page = build_page(RejectedStore(collector.settings.home))
    assert "<td>2<td>schema<td>event<td>#2: " in page
    assert "3 events are rejected" in page
    assert attack not in page
    assert "&lt;script&gt;alert(1)" in page


@pytest.mark.slow
def test_a_collector_killed_during_a_replay_stores_each_event_once(tmp_path: Path, strict: Start) -> None:
    first = strict()
    for batch in range(3):
        first.send(*[watched(None, userId=f"u{batch}-{number}") for number in range(200)])
    first.close()
    home = first.settings.home
    store = RejectedStore(home)
    store.request_replay(Search(), now_us())
    left = [600]
    while left[-1]:
        command = [sys.executable, "-c", REPLAY, str(home), str(tmp_path / "mapping.yaml")]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            process.stdout.readline()
            time.sleep(0.02 * len(left))
            process.kill()
        left.append(len(store.waiting(600)))
    assert len(left) > 3, "it was never killed halfway"
    final = strict(fixed=True)
    users = [event.user_id for event in final.events()]
    assert len(users) == len(set(users)) == 600


REPLAY = """
import asyncio, sys
from pathlib import Path
from data.collect import service
from data.collect.settings import CollectSettings
service.REPLAY_EVENTS = 20
async def main():
    parts = service.CollectService(CollectSettings(home=Path(sys.argv[1]), mapping=Path(sys.argv[2]), unknown="reject"))
    await parts.start()
    print("started", flush=True)
    await asyncio.sleep(60)
asyncio.run(main())
"""
