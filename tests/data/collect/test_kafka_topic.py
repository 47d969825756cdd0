"""The Kafka topic: its address and options, how it is created, and when it is refused."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, ConfigResource, NewTopic, ResourceType

from benchmarks._kafka_broker import KafkaBroker
from data.collect import kafka_topic
from data.collect.event_log import LogError
from data.collect.kafka_topic import DAY_MS, KafkaTopic, prepare_topic
from data.collect.settings import load

PASSWORD = "hunter2hunter2"


@pytest.fixture(scope="module")
def broker() -> Iterator[KafkaBroker]:
    with closing(KafkaBroker()) as running:
        yield running


def test_an_address_names_brokers_and_topic() -> None:
    topic = KafkaTopic.parse("kafka://a:9092,b:9092/events", {"sasl.password": PASSWORD})
    assert (topic.brokers, topic.name, topic.dead_letters) == ("a:9092,b:9092", "events", "events.dead")
    assert PASSWORD not in repr(topic)


@pytest.mark.parametrize(
    "log", ["kafka", "kafka://a:9092", "kafka://user:pw@a:9092/events", "kafka://a/b/c", "postgres"]
)
def test_another_address_is_refused(monkeypatch: pytest.MonkeyPatch, log: str) -> None:
    monkeypatch.setenv("TIDEGATE_COLLECT_LOG", log)
    with pytest.raises(ValueError, match=r"TIDEGATE_COLLECT_LOG is .*; expected sqlite or kafka://HOST:PORT"):
        load()


def test_options_are_json_and_no_error_shows_a_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(
        "TIDEGATE_COLLECT_KAFKA_OPTIONS", f'{{"sasl.password": "{PASSWORD}", "ssl.ca.location": "ca.pem"}}'
    )
    settings = load()
    assert settings.kafka_options == {"sasl.password": PASSWORD, "ssl.ca.location": "ca.pem"}
    assert PASSWORD not in repr(settings)
    for wrong in (
        f'{{"sasl.password": "{PASSWORD}"',
        f'["sasl.password", "{PASSWORD}"]',
        f'{{"sasl.password": ["{PASSWORD}"]}}',
    ):
        monkeypatch.setenv("TIDEGATE_COLLECT_KAFKA_OPTIONS", wrong)
        with pytest.raises(ValueError, match="TIDEGATE_COLLECT_KAFKA_OPTIONS") as caught:
            load()
        assert PASSWORD not in str(caught.value)


def test_options_on_which_the_guarantees_rest_are_refused() -> None:
    with pytest.raises(LogError, match=r"acks, enable\.idempotence"):
        KafkaTopic.parse("kafka://a:9092/events", {"acks": 1, "enable.idempotence": False, "security.protocol": "ssl"})


def test_an_option_that_kafka_does_not_know_is_named() -> None:
    with pytest.raises(LogError, match=r"sasl\.pasword"):
        KafkaTopic("a:9092", "events", {"sasl.pasword": PASSWORD}).client(Producer)


def test_an_option_takes_the_place_of_a_default() -> None:
    with pytest.raises(LogError, match=r"fetch\.wait\.max\.ms"):
        KafkaTopic("a:9092", "events", {"fetch.wait.max.ms": -5}).client(Producer, fetch_wait_max_ms=50)


def test_missing_topics_are_created_and_existing_ones_are_left_alone(broker: KafkaBroker) -> None:
    topic = KafkaTopic(broker.address, "created")
    first = prepare_topic(topic, 5, 1, retention_days=10)
    assert prepare_topic(topic, 7, 1, retention_days=20) == first
    admin = AdminClient({"bootstrap.servers": broker.address})
    topics = admin.list_topics(timeout=10).topics
    assert len(topics["created"].partitions) == 5
    assert "created.dead" in topics
    (config,) = admin.describe_configs([ConfigResource(ResourceType.TOPIC, "created")]).values()
    assert config.result()["retention.ms"].value == str(10 * DAY_MS)
    assert config.result()["cleanup.policy"].value == "delete"
    assert first.retained_seconds == 17 * 86_400  # Kafka deletes a segment once its newest record is too old


def test_a_compacted_topic_is_refused(broker: KafkaBroker) -> None:
    admin = AdminClient({"bootstrap.servers": broker.address})
    for created in admin.create_topics([NewTopic("compacted", 1, 1, config={"cleanup.policy": "compact"})]).values():
        created.result()
    with pytest.raises(LogError, match="the topic compacted is compacted"):
        prepare_topic(KafkaTopic(broker.address, "compacted"), 1, 1, 10)


def test_brokers_that_do_not_answer_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kafka_topic, "ANSWER_SECONDS", 0.5)
    with pytest.raises(LogError, match=r"Kafka at 127\.0\.0\.1:1 cannot be used"):
        prepare_topic(KafkaTopic("127.0.0.1:1", "events"), 1, 1, 10)
