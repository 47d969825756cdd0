"""The event collector's settings: environment variables `TIDEGATE_COLLECT_<FIELD>`, never params.yaml."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationError
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from config import paths
from config.command import UserError
from config.redact import HIDDEN
from config.validation import describe_error

PREFIX = "TIDEGATE_COLLECT_"

Port = Annotated[int, Field(ge=1, le=65_535)]
Count = Annotated[int, Field(ge=1)]
Rate = Annotated[float, Field(gt=0)]
Seconds = Annotated[float, Field(gt=0)]


SQLITE = "sqlite"
LOG = r"^(sqlite|kafka://[^/@\s]+/[A-Za-z0-9._-]{1,200})$"


def _parse_json(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except ValueError:
        raise ValueError("expected JSON") from None


KafkaOptions = Annotated[dict[str, str | int | float | bool], NoDecode, BeforeValidator(_parse_json)]


class CollectSettingsError(UserError):
    """An environment variable is invalid."""


class CollectSettings(BaseSettings):
    """Each field is read from `TIDEGATE_COLLECT_<FIELD>`; an empty variable counts as unset."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, env_ignore_empty=True, frozen=True, extra="ignore")

    host: str = "127.0.0.1"
    port: Port = 8070
    metrics_host: str = "127.0.0.1"  # has no authorization of its own
    metrics_port: Port = 8071
    home: Path = Field(default_factory=paths.collect)

    log: Annotated[str, Field(pattern=LOG)] = SQLITE
    retention_days: Count = (
        395  # of the log: a year can be compared with the year before. An existing topic has its own.
    )
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
    """Read the environment. Raises CollectSettingsError: one line per invalid variable."""
    try:
        return CollectSettings()
    except ValidationError as error:
        lines = (describe_error(_name(fault), _without_secrets(fault)) for fault in error.errors())
        raise CollectSettingsError("\n".join(lines)) from None


def _without_secrets(fault: Any) -> dict[str, Any]:
    return {**fault, "input": HIDDEN} if fault["loc"][0] == "kafka_options" else fault


def _name(fault: Any) -> str:
    return variable(str(fault["loc"][0]).lower().removeprefix(PREFIX.lower()))
