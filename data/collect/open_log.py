"""Open the event log that the settings name: SQLite, or a Kafka topic."""

from __future__ import annotations

from data.collect.event_log import EventLog, EventReader
from data.collect.kafka_log import KafkaEventLog
from data.collect.kafka_reader import KafkaLogReader
from data.collect.kafka_topic import KafkaTopic, prepare_topic
from data.collect.settings import SQLITE, CollectSettings
from data.collect.sqlite_log import SqliteEventLog, SqliteLogReader


def open_log(settings: CollectSettings) -> EventLog:
    """The log, to write. A Kafka topic is created if it is missing.

    Raises:
        LogError: another process writes this log, or Kafka cannot be used.
    """
    if settings.log == SQLITE:
        return SqliteEventLog(settings.log_folder, settings.retention_days)
    topic = KafkaTopic.parse(settings.log, settings.kafka_options)
    state = prepare_topic(topic, settings.kafka_partitions, settings.kafka_replicas, settings.retention_days)
    folder = settings.home / "kafka" / f"{topic.name}-{state.id}"
    return KafkaEventLog(topic, folder, state.retained_seconds, settings.kafka_seconds)


def open_reader(settings: CollectSettings) -> EventReader:
    """The log, to read. Raises LogError: an option of Kafka's client is invalid."""
    if settings.log == SQLITE:
        return SqliteLogReader(settings.log_folder)
    return KafkaLogReader(KafkaTopic.parse(settings.log, settings.kafka_options))
