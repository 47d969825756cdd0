"""The index of message ids."""

from __future__ import annotations

import time
from pathlib import Path

from data.collect.event_log import Position
from data.collect.message_index import IndexEntry, MessageIndex, index_key

ENTRIES = {
    index_key("a"): IndexEntry(Position(0, 7), b"12345678"),
    index_key("b"): IndexEntry(Position(11, 2**40), b"abcdefgh"),
}
KEYS = [*ENTRIES, index_key("c")]


def test_entries_and_ends_are_there_again_after_closing(tmp_path: Path) -> None:
    index = MessageIndex(tmp_path / "index")
    assert index.ends == {}
    index.add(ENTRIES, {0: 7})
    index.add({}, {11: 2**40})
    index.close()

    index = MessageIndex(tmp_path / "index", keep_seconds=100_000)
    assert index.find(KEYS) == ENTRIES
    assert index.ends == {0: 7, 11: 2**40}
    index.remove([index_key("a")])
    assert list(index.find(KEYS)) == [index_key("b")]
    index.clear()
    assert (index.find(KEYS), index.ends) == ({}, {})
    index.close()


def test_a_damaged_index_starts_empty(tmp_path: Path) -> None:
    index = MessageIndex(tmp_path / "index")
    index.add(ENTRIES, {0: 7})
    index.close()
    for path in (tmp_path / "index").glob("MANIFEST*"):
        path.write_bytes(b"damaged")
    index = MessageIndex(tmp_path / "index")
    assert (index.find(KEYS), index.ends) == ({}, {})
    index.close()


def test_entries_of_deleted_messages_are_forgotten(tmp_path: Path) -> None:
    index = MessageIndex(tmp_path / "index", keep_seconds=1)
    index.add(ENTRIES, {0: 7})
    time.sleep(2.1)
    index._database.compact_range(None, None)  # as RocksDB does by itself, in time
    assert index.find(KEYS) == {}
    index.close()
