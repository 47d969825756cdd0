"""The event log in Kafka: what it has confirmed is in the topic, once, after kills of the broker and restarts.

The broker is tansu, over TCP. It has one replica, and does not delete old records: librdkafka's mock of a broker does.
"""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from collector_app import RunningCollector
from confluent_kafka import Consumer, Message, Producer

from benchmarks import collect_kills
from benchmarks._kafka_broker import KafkaBroker
from config.paths import ROOT
from data.collect import kafka_log
from data.collect.event_log import LogError, LogFull, LoggedMessage, LogUnavailable, NewMessage, Outcome, Position
from data.collect.kafka_log import KafkaEventLog
from data.collect.kafka_reader import KafkaLogReader, LogCut, decode, read_records
from data.collect.kafka_topic import KafkaTopic, prepare_topic
from data.collect.open_log import open_reader
from data.collect.partitions import PEOPLE, RECEIPT, read_part, read_parts
from data.collect.snapshot import write_snapshot
from data.times import now_us

EVENTS = b'[{"type":"alias","event_id":"e","event_time":1,"previous_id":"ann"}]'
KNOWN_US = 1_700_000_000_000_000
PARTITIONS = 3
WAIT_SECONDS = 60


@pytest.fixture(scope="module")
def broker() -> Iterator[KafkaBroker]:
    with closing(KafkaBroker()) as running:
        yield running


names = (f"events-{number}" for number in itertools.count())


@pytest.fixture
def topic(broker: KafkaBroker) -> KafkaTopic:
    """A topic of its own for each test."""
    made = KafkaTopic(broker.address, next(names))
    prepare_topic(made, PARTITIONS, 1, 395)
    return made


@pytest.fixture
def start(topic: KafkaTopic, tmp_path: Path) -> Iterator[Callable[..., KafkaEventLog]]:
    """Open the log with the index in a folder; it is closed at the end."""
    opened: list[KafkaEventLog] = []

    def begin(folder: str = "index", **options) -> KafkaEventLog:
        opened.append(KafkaEventLog(topic, tmp_path / folder, **options))
        return opened[-1]

    yield begin
    for log in opened:
        close(log)


def close(log: KafkaEventLog) -> None:
    if log._writer.is_alive():
        log.close()


def new(message_id: str, person: str = "ann", fingerprint: bytes = b"12345678") -> NewMessage:
    return NewMessage(message_id, fingerprint, person, EVENTS)


def outcomes(log: KafkaEventLog, *messages: NewMessage) -> list[Outcome]:
    return [receipt.outcome for receipt in log.append(KNOWN_US, "web", messages).result(WAIT_SECONDS)]


def repeat(log: KafkaEventLog, *messages: NewMessage) -> list[Outcome]:
    """The outcomes in the end, as of a sender that tries again while it is told to."""
    deadline = time.monotonic() + WAIT_SECONDS
    while True:
        try:
            return outcomes(log, *messages)
        except LogUnavailable:
            assert time.monotonic() < deadline


def read(topic: KafkaTopic, after: dict[int, int] | None = None) -> list[LoggedMessage]:
    return list(KafkaLogReader(topic).read(after))


def stored_ids(topic: KafkaTopic) -> list[str]:
    return [message.message_id for message in read(topic)]


def produce(topic: KafkaTopic, *values: bytes, **options) -> None:
    producer = Producer({"bootstrap.servers": topic.brokers})
    for value in values:
        producer.produce(topic.name, value, partition=0, **options)
    assert producer.flush(WAIT_SECONDS) == 0


# Messages and ids


def test_messages_read_back_and_those_of_a_person_are_in_order(topic: KafkaTopic, start) -> None:
    log = start()
    receipts = log.append(KNOWN_US, "web", [new(f"{n}", f"person {n % 5}") for n in range(50)]).result(WAIT_SECONDS)
    receipts += log.append(KNOWN_US + 5, "app", [new("50", "person 0")]).result(WAIT_SECONDS)

    messages = {message.message_id: message for message in read(topic)}
    assert messages["50"] == LoggedMessage(receipts[50].position, KNOWN_US + 5, "app", "50", EVENTS)
    assert [messages[str(number)].position for number in range(51)] == [receipt.position for receipt in receipts]
    of_person = [receipts[number].position for number in range(0, 51, 5)]
    assert of_person == sorted(of_person)
    assert len({position.partition for position in of_person}) == 1
    assert len({receipt.position.partition for receipt in receipts}) > 1
    ends = {position.partition: position.offset for position in sorted(receipt.position for receipt in receipts)}
    assert dict(log.end) == ends
    assert read(topic, ends) == []
    assert [
        m.message_id for m in read(topic, ends | {receipts[50].position.partition: receipts[50].position.offset - 1})
    ] == ["50"]


def test_snapshots_hold_every_message_of_every_partition_once(topic: KafkaTopic, start, tmp_path: Path) -> None:
    log, folder = start(), tmp_path / "events"
    for number in range(3):
        outcomes(log, *(new(f"{n}", f"person {n}") for n in range(10 * number, 10 * number + 20)))
        write_snapshot(KafkaLogReader(topic), folder, KNOWN_US + number + 1)

    parts = read_parts(folder)
    receipts = [row for part in parts for row in read_part(folder, part, PEOPLE, [RECEIPT])[RECEIPT].to_pylist()]
    assert sorted(receipts) == sorted(str(message.position) for message in read(topic))
    assert [part.messages for part in parts] == [20, 10, 10]


def test_a_message_id_is_stored_once_over_batches_and_restarts(topic: KafkaTopic, start, tmp_path: Path) -> None:
    log = start()
    assert outcomes(log, new("a"), new("a")) == [Outcome.STORED, Outcome.DUPLICATE]
    assert outcomes(log, new("a"), new("b")) == [Outcome.DUPLICATE, Outcome.STORED]
    log.close()

    log = start()
    assert outcomes(log, new("a"), new("b", "bob", b"87654321")) == [Outcome.DUPLICATE, Outcome.CONFLICT]
    log.close()

    shutil.rmtree(tmp_path / "index")
    log = start()
    assert outcomes(log, new("a"), new("c")) == [Outcome.DUPLICATE, Outcome.STORED]
    assert stored_ids(topic) == ["a", "b", "c"]


def test_a_second_writer_with_the_same_index_is_refused(start) -> None:
    start()
    with pytest.raises(LogError, match="another process writes"):
        start()


def test_a_repeat_that_reaches_another_collector_is_found_once_that_one_has_read_on(
    topic: KafkaTopic, start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kafka_log, "FOLLOW_SECONDS", 0)
    one, other = start("one"), start("other")
    assert outcomes(one, new("a"), new("b")) == [Outcome.STORED] * 2
    assert outcomes(other, new("c")) == [Outcome.STORED]
    assert outcomes(other, new("a"), new("b")) == [Outcome.DUPLICATE] * 2
    assert outcomes(start("third"), new("a"), new("c")) == [Outcome.DUPLICATE] * 2
    assert stored_ids(topic) == ["a", "b", "c"]


# Failures


def test_a_batch_waits_for_a_killed_broker_and_is_stored_once(broker: KafkaBroker, topic: KafkaTopic, start) -> None:
    log = start()
    outcomes(log, new("a"))
    broker.kill()
    answer = log.append(KNOWN_US, "web", [new("b"), new("a")])
    time.sleep(0.3)
    assert not answer.done()
    broker.start()
    assert [receipt.outcome for receipt in answer.result(WAIT_SECONDS)] == [Outcome.STORED, Outcome.DUPLICATE]
    assert stored_ids(topic) == ["a", "b"]


def test_a_batch_that_timed_out_can_be_repeated_and_is_stored_once(
    broker: KafkaBroker, topic: KafkaTopic, start
) -> None:
    log = start(delivery_seconds=0.5)
    repeat(log, new("a"))
    broker.pause()
    try:
        with pytest.raises(LogUnavailable, match="no answer yet"):
            outcomes(log, new("b"))
        with pytest.raises(LogUnavailable, match="earlier events are not confirmed"):
            outcomes(log, new("b"))
    finally:
        broker.resume()
    assert repeat(log, new("b"), new("c")) == [Outcome.DUPLICATE, Outcome.STORED]
    assert stored_ids(topic) == ["a", "b", "c"]


def test_what_the_producer_gave_up_is_looked_for_in_the_topic_before_its_id_is_judged(
    broker: KafkaBroker, topic: KafkaTopic, start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kafka_log, "GIVE_UP_MS", 1000)
    log = start()
    outcomes(log, new("a"))
    broker.pause()
    try:
        with pytest.raises(LogUnavailable, match="timed out"):
            outcomes(log, new("b"))
    finally:
        broker.resume()
    assert repeat(log, new("b"), new("c")) == [Outcome.DUPLICATE, Outcome.STORED]
    assert stored_ids(topic) == ["a", "b", "c"]


def test_an_index_that_refuses_loses_nothing_and_is_brought_up_to_date(
    topic: KafkaTopic, start, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = start()
    with monkeypatch.context() as patch:
        patch.setattr(log._index, "add", lambda *_: (_ for _ in ()).throw(OSError("full")))
        assert outcomes(log, new("a")) == [Outcome.STORED]
        with pytest.raises(LogUnavailable, match="cannot be stored now"):
            outcomes(log, new("a"))
    assert outcomes(log, new("a"), new("b")) == [Outcome.DUPLICATE, Outcome.STORED]
    assert stored_ids(topic) == ["a", "b"]


def test_a_topic_that_lost_its_records_takes_their_ids_again(tmp_path: Path) -> None:
    with closing(KafkaBroker()) as broker:
        topic = KafkaTopic(broker.address, "events")
        prepare_topic(topic, 1, 1, 395)
        with closing(KafkaEventLog(topic, tmp_path)) as log:
            outcomes(log, new("a"), new("b"))
        broker.lose_everything()
        prepare_topic(topic, 1, 1, 395)
        with closing(KafkaEventLog(topic, tmp_path)) as log:
            assert outcomes(log, new("a")) == [Outcome.STORED]
        assert stored_ids(topic) == ["a"]
        with pytest.raises(LogCut, match="offset 7 was read"):
            read(topic, {0: 7})


def test_senders_are_refused_while_too_many_wait(start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kafka_log, "WAITING_BATCHES", 3)
    log = start()
    hold = threading.Event()
    monkeypatch.setattr(log, "_write_group", lambda group: hold.wait(WAIT_SECONDS))
    for number in range(4):  # one is being written
        log.append(KNOWN_US, "web", [new(str(number))])
        time.sleep(0.05)
    with pytest.raises(LogFull):
        log.append(KNOWN_US, "web", [new("too many")])
    hold.set()


def test_a_sender_that_goes_away_stops_nothing(start) -> None:
    log = start()
    answer = log.append(KNOWN_US, "web", [new("a")])
    assert not answer.cancel()
    assert outcomes(log, new("a"), new("b")) == [Outcome.DUPLICATE, Outcome.STORED]


WRITER = """
import itertools, sys, time
from pathlib import Path
from data.collect.event_log import LogUnavailable, NewMessage
from data.collect.kafka_log import KafkaEventLog
from data.collect.kafka_topic import KafkaTopic
address, name, folder, run, begin = sys.argv[1:]
log = KafkaEventLog(KafkaTopic(address, name), Path(folder), delivery_seconds=0.5)
print("ready", flush=True)
for batch in itertools.count(int(begin)):
    messages = [NewMessage(f"{batch}-{number}", b"12345678", f"{number}", b"[]") for number in range(20)]
    while True:
        try:
            log.append(time.time_ns() // 1000, "web", messages).result()
            break
        except LogUnavailable:
            pass
    print(batch, flush=True)
"""


@pytest.mark.slow
def test_every_confirmed_event_is_there_once_after_kills_of_collector_and_broker(
    broker: KafkaBroker, topic: KafkaTopic, tmp_path: Path
) -> None:
    confirmed, next_batch = set(), 0
    for run in range(5):
        command = [sys.executable, "-c", WRITER, topic.brokers, topic.name, str(tmp_path), str(run), str(next_batch)]
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, encoding="utf-8", env=os.environ) as writer:
            assert writer.stdout.readline() == "ready\n"
            lines = [writer.stdout.readline() for _ in range(10 + 7 * run)]
            broker.kill()
            time.sleep(0.2 * run)
            broker.start()
            lines += [writer.stdout.readline() for _ in range(10)]
            writer.send_signal(signal.SIGKILL)
            lines += writer.stdout.readlines()
        confirmed |= {f"{int(line)}-{number}" for line in lines for number in range(20)}
        next_batch = int(lines[-1]) + 1  # the next one repeats what the killed one may have sent
    stored = stored_ids(topic)
    assert confirmed <= set(stored)
    assert len(stored) == len(set(stored))


@pytest.mark.slow
def test_kills_lose_no_event_that_a_collector_acknowledged(broker: KafkaBroker, tmp_path: Path) -> None:
    figures = collect_kills.run(tmp_path, kills=2, refusals=1, seconds=12, seed=1, broker=broker)
    assert figures["acknowledged"] > 0
    assert figures["acknowledged_and_not_in_the_log"] == figures["in_the_log_twice"] == 0
    assert set(figures["requests_by_status"]) <= {"200", "429", "503", "no answer"}


# Readers


def test_records_that_cannot_be_read_go_to_the_dead_letters_and_reading_goes_on(topic: KafkaTopic, start) -> None:
    log = start()
    outcomes(log, new("a"))
    headers = [("message_id", b"x"), ("known_us", b"1"), ("source", b"web"), ("fingerprint", b"12345678")]
    produce(topic, b"no headers")
    produce(topic, b'[{"type":"nonsense"}]', headers=headers)
    produce(topic, EVENTS, headers=[("message_id", b"\xff"), *headers[1:]], key=b"ann")
    outcomes(log, new("b"))

    reader = KafkaLogReader(topic)
    assert [message.message_id for message in reader.read()] == ["a", "b"]
    assert reader.dead_letters == 3
    dead = [record for chunk in read_records(KafkaTopic(topic.brokers, topic.dead_letters), {}) for record in chunk]
    reasons = [dict(record.headers())["reason"].decode() for record in dead]
    assert [record.value() for record in dead] == [b"no headers", b'[{"type":"nonsense"}]', EVENTS]
    assert "no header 'known_us'" in reasons[0]
    assert "nonsense" in reasons[1]
    assert "header cannot be read" in reasons[2]
    assert dead[2].key() == b"ann"
    assert Position.parse(dict(dead[2].headers())["position"].decode()).partition == 0


def test_reading_ends_where_the_topic_ended_when_it_began(topic: KafkaTopic) -> None:
    headers = [("message_id", b"x"), ("known_us", b"1"), ("source", b"web")]
    for _ in range(12):
        produce(topic, *[EVENTS] * 100, headers=headers)
    slow = {"queued.min.messages": 1, "queued.max.messages.kbytes": 1, "fetch.message.max.bytes": 1000}
    messages = KafkaLogReader(KafkaTopic(topic.brokers, topic.name, slow)).read()
    first = next(messages)
    produce(topic, *[EVENTS] * 10, headers=headers)
    assert first.position == Position(0, 0)
    assert [message.position.offset for message in messages] == list(range(1, 1200))


def test_reading_begins_at_the_first_record_that_is_left() -> None:
    mock = Producer({"bootstrap.servers": "none:1", "test.mock.num.brokers": 1})  # keeps 5 MB of a partition
    for number in range(7_000):
        mock.produce("events", b"x" * 1000, partition=0)
        if number % 1000 == 0:
            mock.flush(WAIT_SECONDS)
    mock.flush(WAIT_SECONDS)
    brokers = mock.list_topics("events", WAIT_SECONDS).brokers.values()
    topic = KafkaTopic(",".join(f"{broker.host}:{broker.port}" for broker in brokers), "events")
    offsets = [record.offset() for records in read_records(topic, {0: 10}) for record in records]
    assert offsets[0] > 11
    assert offsets == list(range(offsets[0], 7_000))
    with pytest.raises(LogCut):
        list(read_records(topic, {0: 9_000}))


def test_a_broker_that_does_not_answer_ends_reading_with_an_error() -> None:
    with pytest.raises(LogError, match="the topic events cannot be read"):
        list(read_records(KafkaTopic("127.0.0.1:1", "events"), {}, answer_seconds=0.5))


def test_a_rebalance_of_two_readers_loses_no_message_and_keeps_the_order_of_a_person(topic: KafkaTopic, start) -> None:
    log = start()
    numbers = itertools.count()

    def send(count: int) -> None:
        outcomes(log, *[new(str(next(numbers)), f"person {n % 7}") for n in range(count)])

    options = {"group.id": topic.name, "auto.offset.reset": "earliest", "enable.auto.commit": False}
    options |= {"session.timeout.ms": 2000, "heartbeat.interval.ms": 200, "fetch.wait.max.ms": 50}
    one, other = (topic.client(Consumer, **{k.replace(".", "_"): v for k, v in options.items()}) for _ in range(2))
    seen: list[Message] = []

    def take(consumer: Consumer) -> None:
        records = [record for record in consumer.consume(100, 0.05) if not record.error()]
        seen.extend(records)
        if records:
            consumer.commit(asynchronous=False)

    def wait_for(condition: Callable[[], bool], *consumers: Consumer) -> None:
        deadline = time.monotonic() + WAIT_SECONDS
        while not condition():
            assert time.monotonic() < deadline
            for consumer in consumers:
                take(consumer)

    one.subscribe([topic.name])
    send(100)
    wait_for(lambda: len(seen) >= 50, one)
    other.subscribe([topic.name])
    wait_for(lambda: bool(one.assignment() and other.assignment()), one, other)
    send(100)
    wait_for(lambda: len({record_id(record) for record in seen}) == 200, one, other)
    one.close()
    send(100)
    wait_for(lambda: len({record_id(record) for record in seen}) == 300, other)
    other.close()
    of_person: dict[bytes, dict[str, None]] = {}
    for record in seen:
        of_person.setdefault(record.key(), {})[record_id(record)] = None
    assert [list(map(int, ids)) for ids in of_person.values()] == [sorted(map(int, ids)) for ids in of_person.values()]


def record_id(record: Message) -> str:
    return decode(record).message_id


# The collector


def test_a_collector_on_kafka_acknowledges_what_is_in_the_topic(broker: KafkaBroker, tmp_path: Path) -> None:
    name = next(names)
    settings = {"log": f"kafka://{broker.address}/{name}", "kafka_partitions": PARTITIONS, "kafka_seconds": 1}
    message = {"type": "track", "userId": "ann", "event": "view", "properties": {"item_id": "film"}}
    with closing(RunningCollector(tmp_path, **settings)) as collector:
        assert collector.send({"messageId": "m1", **message})["m1"]["status"] == "accepted"
        assert collector.send({"messageId": "m1", **message})["m1"]["status"] == "duplicate"
        broker.pause()
        try:
            response = collector.post("/v1/batch", {"batch": [{"messageId": "m2", **message}]})
            assert (response.status_code, response.json()["results"]["m2"]["status"]) == (503, "retry")
            assert collector.client.get("/readyz").json()["status"] == "degraded"
        finally:
            broker.resume()
        while (response := collector.post("/v1/batch", {"batch": [{"messageId": "m2", **message}]})).status_code == 503:
            pass
        assert response.json()["results"]["m2"]["status"] == "duplicate"
    with closing(RunningCollector(tmp_path, **settings)) as collector:
        assert collector.send({"messageId": "m1", **message})["m1"]["status"] == "duplicate"
        assert collector.send({"messageId": "m3", **message})["m3"]["status"] == "accepted"
        assert collector.client.get("/readyz").json()["status"] == "ready"
        assert [message.message_id for message in collector.logged()] == ["m1", "m2", "m3"]
        assert [event.item_id for event in collector.events()] == ["film"] * 3
        reader, partitions = open_reader(collector.settings), collector.settings.partitions
        (part,) = write_snapshot(reader, partitions, now_us())
        assert part.files["events"].rows == 3
        assert collector.send({"messageId": "m4", **message})["m4"]["status"] == "accepted"
        (part,) = write_snapshot(reader, partitions, now_us())
        assert part.files["events"].rows == 1
        assert write_snapshot(reader, partitions, now_us()) == []
