"""The index of message ids: which ids an event log holds, where, and with which content.

It is derived from the log: written after it, and what a kill kept from it is added later. A log keeps it in a RocksDB
folder of its own.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping
from hashlib import blake2b
from pathlib import Path
from typing import NamedTuple

import msgspec
from rocksdict import AccessType, BlockBasedOptions, Cache, Options, Rdict, WriteBatch, WriteOptions

from data.collect.event_log import Position

log = logging.getLogger(__name__)

KEY_BYTES, PARTITION_BYTES, OFFSET_BYTES = 16, 4, 8
POSITION_BYTES = PARTITION_BYTES + OFFSET_BYTES
ENDS_KEY = b"ends"  # of another length than the others: the offset of each partition up to which the index is complete
BLOOM_BITS = 10  # of memory per message id: one search in a hundred looks at the disk in vain
MEMTABLE_BYTES, CACHE_BYTES = 16 << 20, 64 << 20
FOREVER = 0  # as RocksDB's time to live
CATCH_UP_MESSAGES = 10_000  # are added at once where the index is brought up to date


class IndexEntry(NamedTuple):
    """What the index knows of a message id."""

    position: Position
    fingerprint: bytes


class MessageIndex:
    """Message ids by a hash. Its memory does not grow with the log, except for BLOOM_BITS per id.

    `ends` has the offset of each partition up to which the index is complete.

    Args:
        keep_seconds: entries may be forgotten that were added longer ago; None: never.
    """

    def __init__(self, folder: Path, keep_seconds: int | None = None) -> None:
        self._folder, self._keep_seconds = folder, keep_seconds
        self.ends: dict[int, int] = {}
        try:
            self._open()
        except Exception as error:  # rocksdict raises plain exceptions: it is damaged, as after a copy of a running log
            log.warning("the index of message ids cannot be opened, so it is derived from the log again: %s", error)
            shutil.rmtree(folder, ignore_errors=True)
            self._open()

    def _open(self) -> None:
        options, blocks = Options(raw_mode=True), BlockBasedOptions()
        blocks.set_bloom_filter(BLOOM_BITS, False)
        blocks.set_block_cache(Cache(CACHE_BYTES))
        options.set_block_based_table_factory(blocks)
        options.set_write_buffer_size(MEMTABLE_BYTES)
        access = AccessType.with_ttl(self._keep_seconds or FOREVER)  # always, as it changes what a value looks like
        self._database = Rdict(str(self._folder), options, access_type=access)
        unlogged = WriteOptions()
        # What a kill loses is derived from the log again. rocksdict's stubs call this property a method.
        unlogged.disable_wal = True  # type: ignore[assignment, method-assign]
        self._database.set_write_options(unlogged)
        stored = self._database.get(ENDS_KEY)
        self.ends = {} if stored is None else msgspec.msgpack.decode(stored, type=dict[int, int])

    def reopen(self) -> None:
        """Open it again: after an error, such as on a full disk, RocksDB refuses writes until then."""
        self._database.close()
        self._open()

    def clear(self) -> None:
        """Forget everything."""
        self._database.close()
        shutil.rmtree(self._folder)
        self._open()

    def find(self, keys: list[bytes]) -> dict[bytes, IndexEntry]:
        """What is known of these keys."""
        values: list[bytes | None] = self._database.get(keys)  # type: ignore[arg-type, assignment]
        return {key: _unpack(value) for key, value in zip(keys, values, strict=True) if value is not None}

    def add(self, entries: Mapping[bytes, IndexEntry], ends: Mapping[int, int]) -> None:
        """Add entries. The index is then complete up to these offsets of these partitions."""
        new_ends = self.ends | dict(ends)
        batch = WriteBatch(raw_mode=True)
        for key, entry in entries.items():
            batch.put(key, _pack(entry))
        batch.put(ENDS_KEY, msgspec.msgpack.encode(new_ends))
        self._database.write(batch)
        self.ends = new_ends

    def remove(self, keys: list[bytes]) -> None:
        """Remove ids of deleted messages, to save space."""
        batch = WriteBatch(raw_mode=True)
        for key in keys:
            batch.delete(key)
        self._database.write(batch)

    def close(self) -> None:
        self._database.flush()
        self._database.close()


def index_key(message_id: str) -> bytes:
    """The key of a message id in the index."""
    return blake2b(message_id.encode("utf-8", "surrogatepass"), digest_size=KEY_BYTES).digest()


def _pack(entry: IndexEntry) -> bytes:
    partition, offset = entry.position
    return partition.to_bytes(PARTITION_BYTES, "big") + offset.to_bytes(OFFSET_BYTES, "big") + entry.fingerprint


def _unpack(value: bytes) -> IndexEntry:
    partition = int.from_bytes(value[:PARTITION_BYTES], "big")
    offset = int.from_bytes(value[PARTITION_BYTES:POSITION_BYTES], "big")
    return IndexEntry(Position(partition, offset), value[POSITION_BYTES:])
