"""Rejected events are kept as they came, found by reason, source and text, and deleted after a while."""

from __future__ import annotations

from pathlib import Path

from data.collect.rejected_store import RejectedEvent, RejectedStore


def event(known_us: int, reason: str, source: str = "web", body: bytes = b"{}") -> RejectedEvent:
    return RejectedEvent(0, known_us, source, reason, "item_id", "is missing", "m", body)


def test_events_are_found_counted_marked_and_deleted(tmp_path: Path) -> None:
    store = RejectedStore(tmp_path)
    store.add(
        [
            event(1, "schema", body="é\ud800".encode("utf-8", "surrogatepass")),
            event(2, "time", "app"),
            event(3, "schema"),
        ]
    )
    assert [found.number for found in store.search()] == [3, 2, 1]
    assert [found.number for found in store.search(reason="schema")] == [3, 1]
    assert [found.number for found in store.search(source="app")] == [2]
    assert [found.number for found in store.search(text="é")] == [1]
    assert store.counts() == [("schema", "item_id", 2), ("time", "item_id", 1)]
    store.mark_replayed([1], 9)
    assert [found.number for found in store.search(open_only=True)] == [3, 2]
    assert store.drop_before(3) == 2
    store.close()
    again = RejectedStore(tmp_path)
    assert [found.known_us for found in again.search()] == [3]
    again.close()
