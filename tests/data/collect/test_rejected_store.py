"""Rejected events are kept as they came, found by reason, source, text and time, and dropped when old or too many."""

from __future__ import annotations

import threading
from pathlib import Path

from data.collect.messages import MAX_EVENT_BYTES
from data.collect.rejected_store import Outcome, RejectedEvent, RejectedStore, Search


def event(known_us: int, reason: str = "schema", source: str = "web", body: bytes = b"{}") -> RejectedEvent:
    return RejectedEvent(
        0, known_us, source, reason, "item_id", "is missing", "m", len(body), body, None, None, b"null", ""
    )


def numbers(store: RejectedStore, search: Search) -> list[int]:
    return [found.number for found in store.search(search)]


def test_events_are_found_counted_marked_and_deleted(tmp_path: Path) -> None:
    store = RejectedStore(tmp_path)
    odd = "é\ud800".encode("utf-8", "surrogatepass")
    store.add([event(1, body=odd), event(2, "time", "app"), event(3)])
    assert numbers(store, Search()) == [3, 2, 1]
    assert numbers(store, Search(reason="schema")) == [3, 1]
    assert numbers(store, Search(source="app")) == [2]
    assert numbers(store, Search(text="é")) == [1]
    assert numbers(store, Search(text="missing", since_us=2)) == [3, 2]
    assert [found.number for found in store.search(limit=1)] == [3]
    assert store.counts() == [("schema", "item_id", 2, 3), ("time", "item_id", 1, 2)]
    store.settle([Outcome(1)], 9)
    found = store.find(1)
    assert found is not None
    assert (found.body, found.replayed_us) == (odd, 9)
    assert store.counts() == [("schema", "item_id", 1, 3), ("time", "item_id", 1, 2)]
    assert store.drop_before(3) == 2
    store.close()
    again = RejectedStore(tmp_path)
    assert [found.known_us for found in again.search()] == [3]
    again.close()


def test_the_oldest_are_dropped_and_counted_so_that_bad_events_cannot_fill_the_disk(tmp_path: Path) -> None:
    dropped: list[int] = []
    store = RejectedStore(tmp_path, 1_000_000, dropped.append)
    body = b"x" * MAX_EVENT_BYTES
    for number in range(200):
        store.add([event(number, body=body)])
    left = store.search()
    assert [event.known_us for event in left] == list(range(199, 199 - len(left), -1))
    assert 15 < len(left) < 31
    assert len(left) + sum(dropped) == 200
    store.close()
    assert (tmp_path / "rejected.db").stat().st_size < 1_200_000


def test_threads_that_add_at_once_lose_nothing(tmp_path: Path) -> None:
    store = RejectedStore(tmp_path)
    threads = [threading.Thread(target=lambda: [store.add([event(1)]) for _ in range(20)]) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(store.search()) == 160
