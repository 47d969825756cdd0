"""The Kafka topic of the event log: its address, the configuration of clients, and its creation."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

from confluent_kafka import KafkaError, KafkaException, TopicCollection, Uuid
from confluent_kafka.admin import AdminClient, ConfigResource, NewTopic, ResourceType

from data.collect.event_log import LogError

log = logging.getLogger(__name__)

Result = TypeVar("Result")
Option = str | int | float | bool

SCHEME = "kafka://"
DEAD_LETTERS = ".dead"
ANSWER_SECONDS = 15.0  # within which a broker must answer
DAY_MS = 86_400_000
SEGMENT_MS = 7 * DAY_MS  # Kafka's default
RESERVED = {  # options on which the log's guarantees rest
    "acks", "auto.offset.reset", "bootstrap.servers", "enable.auto.commit", "enable.idempotence", "enable.partition.eof",
    "group.id", "message.timeout.ms", "delivery.timeout.ms", "metadata.broker.list", "partitioner",
    "request.required.acks", "transactional.id",
}  # fmt: skip


@dataclass(frozen=True)
class KafkaTopic:
    """Where the topic is. `options` are librdkafka's, such as those of TLS and SASL."""

    brokers: str  # HOST:PORT[,HOST:PORT]
    name: str
    options: Mapping[str, Option] = field(default_factory=dict, repr=False)  # may hold a password

    @classmethod
    def parse(cls, url: str, options: Mapping[str, Option] | None = None) -> KafkaTopic:
        """Read `kafka://HOST:PORT[,HOST:PORT]/TOPIC`.

        Raises:
            LogError: an option is one that the log sets itself.
        """
        brokers, _, name = url.removeprefix(SCHEME).partition("/")
        reserved = sorted(RESERVED & set(options or {}))
        if reserved:
            raise LogError(f"the event log sets Kafka's option {', '.join(reserved)} itself")
        return cls(brokers, name, options or {})

    @property
    def dead_letters(self) -> str:
        """The topic of records that cannot be read."""
        return self.name + DEAD_LETTERS

    def client(self, kind: Callable[..., Result], **defaults: Option) -> Result:
        """A producer, consumer or admin client with these defaults; `_` stands for the dot in an option's name.

        Raises:
            LogError: an option is invalid.
        """
        own = {name.replace("_", "."): value for name, value in defaults.items()}
        try:
            return kind({**own, **self.options, "bootstrap.servers": self.brokers}, logger=log)
        except KafkaException as error:
            raise LogError(f"Kafka's client cannot be set up: {describe(error)}") from None


class TopicState(NamedTuple):
    """What is known of an existing topic."""

    id: str  # another one where a topic was deleted and created again; the same for all of old brokers
    retained_seconds: int | None  # records can be older only by accident; None: they are kept forever


def prepare_topic(topic: KafkaTopic, partitions: int, replicas: int | None, retention_days: int) -> TopicState:
    """Create the topic and that of dead letters where they are missing.

    Args:
        partitions, replicas, retention_days: of a topic that is created; replicas None: the brokers' default.

    Raises:
        LogError: Kafka does not answer or refuses, or the topic is compacted.
    """
    admin = topic.client(AdminClient)
    config = {"cleanup.policy": "delete", "retention.ms": str(retention_days * DAY_MS)}
    if replicas and replicas > 2:
        config["min.insync.replicas"] = "2"
    try:
        existing = admin.list_topics(timeout=ANSWER_SECONDS).topics
        for name, number in ((topic.name, partitions), (topic.dead_letters, 1)):
            if name not in existing:
                _create(admin, NewTopic(name, number, replicas or -1, config=config))
        described = _only(admin.describe_topics(TopicCollection([topic.name]), request_timeout=ANSWER_SECONDS))
    except KafkaException as error:
        raise LogError(f"Kafka at {topic.brokers} cannot be used: {describe(error)}") from None
    return TopicState(_text(described.topic_id), _retained_seconds(admin, topic))


def describe(error: KafkaException | KafkaError) -> str:
    """The error in one line."""
    cause = error.args[0] if isinstance(error, KafkaException) else error
    return (cause.str() if isinstance(cause, KafkaError) else str(cause)).strip()


def _create(admin: AdminClient, new: NewTopic) -> None:
    try:
        _only(admin.create_topics([new], request_timeout=ANSWER_SECONDS))
        log.info("created the topic %s with %d partitions", new.topic, new.num_partitions)
    except KafkaException as error:
        if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:  # another collector was faster
            raise


def _retained_seconds(admin: AdminClient, topic: KafkaTopic) -> int | None:
    """How long the topic keeps records. Raises LogError: it is compacted."""
    try:
        resource = ConfigResource(ResourceType.TOPIC, topic.name)
        entries = _only(admin.describe_configs([resource], request_timeout=ANSWER_SECONDS))
    except KafkaException as error:  # as where the user may not see it
        log.warning("the configuration of topic %s cannot be read: %s", topic.name, describe(error))
        return None
    config = {name: entry.value for name, entry in entries.items()}
    if "compact" in config.get("cleanup.policy", ""):
        raise LogError(
            f"the topic {topic.name} is compacted, which would delete all but the last event of a person;"
            " set its cleanup.policy to delete"
        )
    retention_ms = int(config.get("retention.ms", -1))
    if retention_ms < 0:
        return None
    return (retention_ms + int(config.get("segment.ms", SEGMENT_MS))) // 1000  # Kafka deletes whole segments


def _only(futures: Mapping[Any, Future[Result]]) -> Result:
    """The result of a request about one thing."""
    (future,) = futures.values()
    return future.result()


def _text(topic_id: Uuid) -> str:
    """A topic id as Kafka's tools show it."""
    return str(topic_id).translate(str.maketrans("+/", "-_"))
