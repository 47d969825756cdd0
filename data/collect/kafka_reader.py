"""Read the event log in a Kafka topic, without a consumer group: whoever reads keeps the offsets."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping

import msgspec
from confluent_kafka import (
    OFFSET_BEGINNING,
    Consumer,
    KafkaError,
    KafkaException,
    Message,
    Producer,
    TopicPartition,
)

from data.collect.event_log import LogError, LoggedMessage, Position
from data.collect.kafka_topic import ANSWER_SECONDS, KafkaTopic, describe
from data.collect.schema import decode_events

log = logging.getLogger(__name__)

MESSAGE_ID, FINGERPRINT, KNOWN_US, SOURCE = "message_id", "fingerprint", "known_us", "source"  # headers of a record
REASON, FROM = "reason", "position"  # headers of a dead letter
CHUNK_RECORDS, CHUNK_SECONDS = 500, 0.05  # that a reader takes at once, and how long it waits for so many
SILENCE_SECONDS = 30.0  # after which a reader gives up
READER_GROUP = "tidegate-reader"  # the client wants a name; no group is joined, and no offset is committed


class LogCut(LogError):
    """The topic ends before an offset that is known from it: it was created again, or restored to an earlier state."""


class KafkaLogReader:
    """Reads the topic.

    Records that cannot be read go to the topic of dead letters, with the reason, and are skipped. `dead_letters` counts
    them.
    """

    def __init__(self, topic: KafkaTopic) -> None:
        self._topic = topic
        self.dead_letters = 0

    def read(self, after: Mapping[int, int] | None = None) -> Iterator[LoggedMessage]:
        """See `EventReader.read`."""
        for records in read_records(self._topic, after or {}):
            messages, dead = [], []
            for record in records:
                try:
                    messages.append(decode(record))
                except ValueError as error:
                    dead.append((record, str(error)))
            if dead:
                self._set_aside(dead)
            yield from messages

    def _set_aside(self, dead: list[tuple[Message, str]]) -> None:
        """Write records to the topic of dead letters. Raises LogError: that is not possible, so reading stops."""
        errors: list[KafkaError | None] = []
        producer = self._topic.client(Producer, acks="all", enable_idempotence=True)
        for record, reason in dead:
            position = str(position_of(record))
            log.warning("the record at %s of %s cannot be read: %s", position, self._topic.name, reason)
            producer.produce(
                self._topic.dead_letters,
                record.value(),
                record.key(),
                headers=[*(record.headers() or ()), (REASON, reason.encode()), (FROM, position.encode())],
                on_delivery=lambda error, _: errors.append(error),
            )
        producer.flush(ANSWER_SECONDS)
        if len(errors) < len(dead) or any(errors):
            error = next((describe(error) for error in errors if error), "no answer")
            raise LogError(f"the topic {self._topic.dead_letters} cannot be written: {error}")
        self.dead_letters += len(dead)


def decode(record: Message) -> LoggedMessage:
    """A record of the topic. Raises ValueError: it was not written by a collector, or is damaged."""
    headers = read_headers(record)
    try:
        known_us, source = int(headers[KNOWN_US]), headers[SOURCE].decode()
        message_id = headers[MESSAGE_ID].decode()
    except KeyError as error:
        raise ValueError(f"it has no header {error}") from None
    except ValueError as error:
        raise ValueError(f"a header cannot be read: {error}") from None
    events = record.value() or b""
    try:
        decode_events(events)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise ValueError(f"its value is not a list of events: {error}") from None
    return LoggedMessage(position_of(record), known_us, source, message_id, events)


def read_records(
    topic: KafkaTopic, after: Mapping[int, int], answer_seconds: float = ANSWER_SECONDS
) -> Iterator[list[Message]]:
    """The records after an offset of each partition, as far as each goes now; in order within a partition.

    Raises:
        LogCut: a partition ends before its offset.
        LogError: the topic cannot be read.
    """
    consumer = topic.client(
        Consumer,
        group_id=READER_GROUP,
        enable_auto_commit=False,
        enable_partition_eof=True,
        auto_offset_reset="error",
        fetch_wait_max_ms=50,
    )
    try:
        yield from _Reading(consumer, topic, after, answer_seconds).chunks()
    except KafkaException as error:
        raise LogError(f"the topic {topic.name} cannot be read: {describe(error)}") from None
    finally:
        consumer.close()


class _Reading:
    """One pass over the partitions of a topic."""

    def __init__(self, consumer: Consumer, topic: KafkaTopic, after: Mapping[int, int], answer_seconds: float) -> None:
        self._consumer, self._topic, self._after, self._answer_seconds = consumer, topic, after, answer_seconds
        self._ends: dict[int, int] = {}  # the offset behind the last record that is to be read
        self._open: set[int] = set()  # partitions that are not read yet

    def chunks(self) -> Iterator[list[Message]]:
        described = self._consumer.list_topics(self._topic.name, self._answer_seconds).topics[self._topic.name]
        if described.error:
            raise LogError(f"the topic {self._topic.name} cannot be read: {describe(described.error)}")
        self._open = set(described.partitions)
        starts = {p: self._after[p] + 1 if p in self._after else OFFSET_BEGINNING for p in self._open}
        self._consumer.assign([self._at(partition, start) for partition, start in starts.items()])
        heard = time.monotonic()
        while self._open:
            chunk = self._consumer.consume(CHUNK_RECORDS, CHUNK_SECONDS)
            records = [record for record in chunk if self._is_record(record) and self._is_wanted(record)]
            if records:
                yield records
            if chunk:
                heard = time.monotonic()
            elif time.monotonic() - heard > SILENCE_SECONDS:
                raise LogError(f"the topic {self._topic.name} cannot be read: no answer in {SILENCE_SECONDS:g} s")
            else:
                self._check_ends()

    def _is_record(self, record: Message) -> bool:
        """Whether it is a record; an event of the client is dealt with."""
        error, partition = record.error(), record.partition()
        if error is None:
            return True
        assert partition is not None
        if error.name() == "_PARTITION_EOF":
            self._finish(partition)
        elif error.name() == "_AUTO_OFFSET_RESET":
            self._go_on_at_the_first(partition)
        elif not error.retriable():
            raise KafkaException(error)
        return False

    def _is_wanted(self, record: Message) -> bool:
        """Whether it was there when the partition was first read."""
        partition, offset = position_of(record)
        if partition not in self._open:
            return False
        if partition not in self._ends:  # known since this fetch
            self._ends[partition] = self._high(partition)
        if offset + 1 >= self._ends[partition]:
            self._finish(partition)
        return offset < self._ends[partition]

    def _finish(self, partition: int) -> None:
        if partition in self._open:
            self._open.remove(partition)
            self._consumer.incremental_unassign([self._at(partition)])

    def _go_on_at_the_first(self, partition: int) -> None:
        """Old records were deleted meanwhile, or the partition ends before."""
        first, end = self._consumer.get_watermark_offsets(self._at(partition), self._answer_seconds)
        self._check_end(partition, end)
        self._consumer.incremental_unassign([self._at(partition)])
        self._consumer.incremental_assign([self._at(partition, first)])

    def _check_ends(self) -> None:
        """Brokers do not all report an offset behind the end."""
        for partition in self._open & set(self._after):
            self._check_end(partition, self._high(partition))

    def _check_end(self, partition: int, end: int) -> None:
        if 0 <= end <= self._after.get(partition, -1):
            raise LogCut(
                f"partition {partition} of {self._topic.name} ends at {end}, and offset {self._after[partition]} was read"
            )

    def _high(self, partition: int) -> int:
        """The offset behind the last record, as of the last fetch; negative where it is not known yet."""
        return self._consumer.get_watermark_offsets(self._at(partition), cached=True)[1]

    def _at(self, partition: int, offset: int = OFFSET_BEGINNING) -> TopicPartition:
        return TopicPartition(self._topic.name, partition, offset)


def read_headers(record: Message) -> dict[str, bytes]:
    """The headers of a record that have a value."""
    return {name: value for name, value in dict(record.headers() or ()).items() if isinstance(value, bytes)}


def position_of(record: Message) -> Position:
    """The place of a record that was written or read."""
    partition, offset = record.partition(), record.offset()
    assert partition is not None
    assert offset is not None
    return Position(partition, offset)
