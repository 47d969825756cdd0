"""The event collector's settings: environment variables `TIDEGATE_COLLECT_<FIELD>`, never params.yaml."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from config import paths
from config.validation import Count, Port, read_environment

PREFIX = "TIDEGATE_COLLECT_"

Rate = Annotated[float, Field(gt=0)]
Seconds = Annotated[float, Field(gt=0)]
SQLITE = "sqlite"
KAFKA_LOG = re.compile(r"kafka://[^/@\s]+/[A-Za-z0-9._-]{1,200}")


def _check_log(value: str) -> str:
    if value != SQLITE and not KAFKA_LOG.fullmatch(value):
        raise ValueError("expected sqlite or kafka://HOST:PORT[,HOST:PORT]/TOPIC")
    return value


def _parse_json(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except ValueError:
        raise ValueError("expected JSON") from None


KafkaOptions = Annotated[dict[str, str | int | float | bool], NoDecode, BeforeValidator(_parse_json)]


class CollectSettings(BaseSettings):
    """Each field is read from `TIDEGATE_COLLECT_<FIELD>`; an empty variable counts as unset."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, env_ignore_empty=True, frozen=True, extra="ignore")

    host: str = "127.0.0.1"
    port: Port = 8070
    metrics_host: str = "127.0.0.1"  # has no authorization of its own
    metrics_port: Port = 8071
    home: Path = Field(default_factory=paths.collect)

    log: Annotated[str, AfterValidator(_check_log)] = SQLITE
    # Of the log: a year can be compared with the year before. A topic that exists already has its own.
    retention_days: Count = 395
    kafka_options: Annotated[KafkaOptions, Field(repr=False)] = {}  # of librdkafka, as JSON; may hold a password
    kafka_partitions: Count = 12  # of a topic that the collector creates
    kafka_replicas: Count | None = None  # of such a topic; None: the brokers' default
    kafka_seconds: Seconds = 10  # how long events wait for Kafka's confirmation
    rejected_days: Count = 30  # how long rejected events are kept
    rejected_mb: Count = 1_000  # of rejected events; the oldest are dropped where there are more

    mapping: Path | None = None  # more rules for names of events, as data/collect/mapping.yaml
    unknown: Literal["drop", "reject"] = "drop"  # names and properties of events that no rule uses

    # What a write key may send that has no limits of its own; in bursts of one second, or of the largest batch.
    events_per_second: Rate = 50_000
    bytes_per_second: Rate = 50_000_000
    head_seconds: Seconds = 10  # within which a request's line and headers must arrive
    body_seconds: Seconds = 10
    max_connections: Count = 1000  # a new one takes the place of a slow reader or an idle one
    drain_seconds: Annotated[float, Field(ge=0)] = 0  # between SIGTERM, when /readyz turns 503, and closing the port

    @property
    def workers(self) -> int:
        """Processes: the embedded log has one writer."""
        return 1

    @property
    def log_folder(self) -> Path:
        return self.home / "log"

    @property
    def partitions(self) -> Path:
        """Where `data.collect.snapshot` writes."""
        return self.home / paths.PARTITIONS

    @property
    def write_keys(self) -> Path:
        return self.home / "write_keys.json"


def variable(field: str) -> str:
    """The environment variable behind a field: port -> TIDEGATE_COLLECT_PORT."""
    return PREFIX + field.upper()


def load() -> CollectSettings:
    """Read the environment. Raises SettingsError: one line per invalid variable."""
    return read_environment(CollectSettings, PREFIX)
