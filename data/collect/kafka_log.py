"""The event log in a Kafka topic: a record for each message, confirmed by all replicas before `append` answers.

The record's key is the person, so the messages of a person are in one partition and in order. One thread writes: it takes
the batches that wait, checks their ids in the index of message ids, sends what is new, and waits until Kafka has
confirmed it.

A record that is not confirmed in time stays with the idempotent producer, and its sender is told to try again. No id
is judged until the producer knows what became of all earlier records, so a repeat finds its first copy in the index.
Where the producer does not know, and after a restart, the index first reads on in the topic.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from confluent_kafka import KafkaError, KafkaException, Message, Producer
from filelock import FileLock, Timeout

from data.collect.event_log import (
    LogError,
    LogFull,
    LogUnavailable,
    NewMessage,
    Outcome,
    Position,
    Receipt,
)
from data.collect.kafka_reader import (
    FINGERPRINT,
    KNOWN_US,
    MESSAGE_ID,
    SOURCE,
    LogCut,
    position_of,
    read_headers,
    read_records,
)
from data.collect.kafka_topic import ANSWER_SECONDS, KafkaTopic, describe
from data.collect.message_index import CATCH_UP_MESSAGES, IndexEntry, MessageIndex, index_key

log = logging.getLogger(__name__)

WAITING_BATCHES = 1_000  # that may wait for Kafka; more are refused
GROUP_MESSAGES = 10_000  # that are sent together, and up to a batch more
SETTLE_SECONDS = 2.0  # how long a group waits until it is known what became of earlier groups
FOLLOW_SECONDS = 5.0  # between readings of what other collectors wrote
GIVE_UP_MS = 120_000  # after which the producer no longer tries to send a record; it may be in the topic
LINGER_MS, RECONNECT_MS = 2, 1_000
MAX_RECORD_BYTES = 10_000_000  # before compression
LOCK_FILE = "writer.lock"


@dataclass(frozen=True)
class _Batch:
    known_us: int
    source: str
    messages: Sequence[NewMessage]
    answer: Future[list[Receipt]]


@dataclass
class _Sent:
    """A message on its way to Kafka, and what became of it."""

    fingerprint: bytes
    position: Position | None = None
    error: str | None = None


class KafkaEventLog:
    """The log for one collector. Several collectors can write to one topic, each with its own folder.

    Args:
        folder: of the index of message ids; only valid for this topic.
        retained_seconds: how long the topic keeps records; None: forever.
        delivery_seconds: how long a batch waits for Kafka.

    Raises:
        LogError: Kafka does not answer, or another process has this folder.
    """

    def __init__(
        self, topic: KafkaTopic, folder: Path, retained_seconds: int | None = None, delivery_seconds: float = 10.0
    ) -> None:
        self._topic, self._delivery_seconds = topic, delivery_seconds
        folder.mkdir(parents=True, exist_ok=True)
        self._lock = FileLock(folder / LOCK_FILE, thread_local=False)  # opened and closed by any thread
        try:
            self._lock.acquire(blocking=False)
        except Timeout:
            raise LogError(f"another process writes with the index in {folder}") from None
        self._index = MessageIndex(folder / "message-ids", retained_seconds)
        self._sent: dict[bytes, _Sent] = {}  # on which Kafka has not answered yet, by the key in the index
        self._doubt = False  # a record may be in the topic and not in the index
        self._behind = False  # another collector wrote to the topic
        self._followed = 0.0
        try:
            self._producer = self._open_producer()
            self._read_on()
        except BaseException:
            self._index.close()
            self._lock.release()
            raise
        self._waiting: queue.Queue[_Batch | None] = queue.Queue(WAITING_BATCHES)
        self._writer = threading.Thread(target=self._write_batches, name="event log", daemon=True)
        self._writer.start()

    @property
    def end(self) -> list[Position]:
        """See `EventLog.end`."""
        return [Position(*end) for end in sorted(self._index.ends.items())]

    def append(self, known_us: int, source: str, messages: Sequence[NewMessage]) -> Future[list[Receipt]]:
        """See `EventLog.append`. Of a batch that fails, messages may have been stored: repeated, they are duplicates."""
        batch = _Batch(known_us, source, messages, Future())
        batch.answer.set_running_or_notify_cancel()  # so that a sender that goes away cannot cancel it
        try:
            self._waiting.put_nowait(batch)
        except queue.Full:
            raise LogFull(f"{WAITING_BATCHES} batches wait for Kafka") from None
        return batch.answer

    def close(self) -> None:
        """See `EventLog.close`."""
        self._waiting.put(None)
        self._writer.join()
        if self._sent:
            self._receive(self._delivery_seconds)
        if self._sent:
            log.warning("Kafka has not confirmed %d messages; their senders know", len(self._sent))
            self._producer.purge()
        self._index.close()
        self._lock.release()

    def _open_producer(self) -> Producer:
        return self._topic.client(
            Producer,
            acks="all",
            enable_idempotence=True,
            message_timeout_ms=GIVE_UP_MS,
            linger_ms=LINGER_MS,
            reconnect_backoff_max_ms=RECONNECT_MS,
            compression_type="lz4",
            message_max_bytes=MAX_RECORD_BYTES,
            partitioner="murmur2_random",  # as of Java's clients
        )

    def _write_batches(self) -> None:
        while (batch := self._waiting.get()) is not None:
            group, size = [batch], len(batch.messages)
            while size < GROUP_MESSAGES and self._waiting.qsize():
                if (batch := self._waiting.get()) is None:
                    self._waiting.put(None)
                    break
                group.append(batch)
                size += len(batch.messages)
            self._write_group(group)

    def _write_group(self, group: list[_Batch]) -> None:
        """Send what is new of a group, wait for Kafka, and answer each batch."""
        try:
            self._settle()
            results = self._send(group)
            self._receive(self._delivery_seconds)
        except Exception as error:
            trace = not isinstance(error, (LogUnavailable, LogError, KafkaException))
            log.warning("the event log could not store a group of %d batches: %s", len(group), error, exc_info=trace)
            # Senders get no cause that names brokers.
            failure = error if isinstance(error, LogUnavailable) else LogUnavailable("events cannot be stored now")
            for batch in group:
                batch.answer.set_exception(failure)
            return
        for batch, of_batch in zip(group, results, strict=True):
            try:
                batch.answer.set_result([_receipt(outcome, place) for outcome, place in of_batch])
            except LogUnavailable as error:
                batch.answer.set_exception(error)

    def _settle(self) -> None:
        """Bring the index up to date with all that was sent before.

        Raises:
            LogUnavailable, LogError, KafkaException: that is not possible now.
        """
        if self._sent:
            self._receive(SETTLE_SECONDS)
        if self._sent:
            raise LogUnavailable(f"{len(self._sent)} earlier events are not confirmed yet")
        if self._doubt:
            self._index.reopen()
            self._read_on(SETTLE_SECONDS)
            self._producer = self._open_producer()
        elif self._behind and time.monotonic() - self._followed > FOLLOW_SECONDS:
            self._read_on(SETTLE_SECONDS)

    def _send(self, group: list[_Batch]) -> list[list[tuple[Outcome, Position | _Sent]]]:
        """Hand new messages to the producer. The outcome of each message of each batch, if those are stored."""
        known = self._index.find([index_key(message.message_id) for batch in group for message in batch.messages])
        results = []
        for batch in group:
            of_batch: list[tuple[Outcome, Position | _Sent]] = []
            for message in batch.messages:
                key = index_key(message.message_id)
                found = self._sent.get(key) or known.get(key)
                if found is None:
                    self._sent[key] = sent = _Sent(message.fingerprint)
                    try:
                        self._produce(batch, message, sent)
                    except BaseException:
                        del self._sent[key]
                        self._doubt = True  # the producer may be of no use any more
                        raise
                    of_batch.append((Outcome.STORED, sent))
                else:
                    outcome = Outcome.DUPLICATE if found.fingerprint == message.fingerprint else Outcome.CONFLICT
                    of_batch.append((outcome, found.position if isinstance(found, IndexEntry) else found))
            results.append(of_batch)
        return results

    def _produce(self, batch: _Batch, message: NewMessage, sent: _Sent) -> None:
        headers: list[tuple[str, str | bytes | None]] = [
            (MESSAGE_ID, message.message_id.encode()),
            (FINGERPRINT, message.fingerprint),
            (KNOWN_US, str(batch.known_us).encode()),
            (SOURCE, batch.source.encode()),
        ]
        self._producer.produce(
            self._topic.name,
            message.events,
            message.person.encode(),
            headers=headers,
            timestamp=batch.known_us // 1000,  # so that retention counts from when the platform learned of it
            on_delivery=partial(_set_delivery, sent),
        )

    def _receive(self, seconds: float) -> None:
        """Wait for Kafka's answers on all that was sent, and add to the index what it confirmed."""
        self._producer.flush(seconds)
        entries: dict[bytes, IndexEntry] = {}
        for key, sent in list(self._sent.items()):
            if sent.position is not None:
                entries[key] = IndexEntry(sent.position, sent.fingerprint)
            elif sent.error is None:
                continue
            else:
                self._doubt = True
            del self._sent[key]
        ends = dict(self._index.ends)
        for partition, offset in sorted(entry.position for entry in entries.values()):
            if offset == ends.get(partition, -1) + 1:
                ends[partition] = offset
            else:
                self._behind = True
        try:
            self._index.add(entries, ends)
        except Exception:  # the messages are safe; the next group waits until the index knows them
            log.exception("the index of message ids could not be written; it is derived from the topic again")
            self._doubt = True

    def _read_on(self, answer_seconds: float = ANSWER_SECONDS) -> None:
        """Add to the index what the topic holds beyond it. Raises LogError."""
        try:
            self._add_records(read_records(self._topic, self._index.ends, answer_seconds))
        except LogCut as error:
            log.warning("%s; the index of message ids is derived from it again", error)
            self._index.clear()
            self._add_records(read_records(self._topic, {}, answer_seconds))
        self._doubt = self._behind = False
        self._followed = time.monotonic()

    def _add_records(self, chunks: Iterable[list[Message]]) -> None:
        entries: dict[bytes, IndexEntry] = {}
        ends: dict[int, int] = {}
        for records in chunks:
            for record in records:
                position = position_of(record)
                ends[position.partition] = position.offset
                headers = read_headers(record)
                try:
                    key, fingerprint = index_key(headers[MESSAGE_ID].decode()), headers[FINGERPRINT]
                except (KeyError, ValueError):
                    continue  # it was not written by a collector
                entries[key] = IndexEntry(position, fingerprint)
            if len(entries) >= CATCH_UP_MESSAGES:
                self._index.add(entries, ends)
                entries = {}
        self._index.add(entries, ends)


def _set_delivery(sent: _Sent, error: KafkaError | None, record: Message) -> None:
    """Kafka's answer on a record."""
    if error is not None:
        sent.error = describe(error)
    elif position_of(record).offset < 0:  # a repeat of the producer that Kafka had stored before
        sent.error = "it is stored at an offset that is not known"
    else:
        sent.position = position_of(record)


def _receipt(outcome: Outcome, place: Position | _Sent) -> Receipt:
    """Raises LogUnavailable: Kafka has not stored it yet, as far as is known."""
    position = place.position if isinstance(place, _Sent) else place
    if position is None:
        assert isinstance(place, _Sent)
        raise LogUnavailable(f"Kafka has not stored it: {place.error or 'no answer yet'}")
    return Receipt(outcome, position)
