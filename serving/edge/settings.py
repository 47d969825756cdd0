"""The edge's settings: environment variables `TIDEGATE_EDGE_<FIELD>`, never params.yaml."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from config import params, paths
from config.paths import ROOT
from config.validation import Count, Port, Section, SettingsError, read_environment
from serving import settings as torchserve
from serving.deployment import rollout_stage

PREFIX = "TIDEGATE_EDGE_"
SHARES_TOLERANCE = 1e-9

Milliseconds = Annotated[int, Field(ge=1, le=60_000)]
Seconds = Annotated[float, Field(gt=0)]
Rate = Annotated[float, Field(gt=0)]
HttpUrl = Annotated[str, Field(pattern=r"^http://[^/]+$")]


class Arm(Section):
    """One arm of an experiment: its share of the users, and the version that answers them (None: the default)."""

    share: Annotated[float, Field(ge=0, le=1)]
    version: Annotated[str, Field(pattern=r"^\d+\.\d+$")] | None = None


def _parse_json(value: Any) -> Any:
    return json.loads(value) if isinstance(value, str) else value


class EdgeSettings(BaseSettings):
    """Each field is read from `TIDEGATE_EDGE_<FIELD>`; an empty variable counts as unset."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, env_ignore_empty=True, frozen=True, extra="ignore")

    host: str = "127.0.0.1"
    port: Port = 8090
    metrics_host: str = "127.0.0.1"  # has no authorization of its own
    metrics_port: Port = 8091
    home: Path = Field(default_factory=paths.edge)
    workers: Count = 1

    dataset: str = Field(default_factory=lambda: params.load(ROOT / "params.yaml").dataset)  # the model's name
    # TorchServe's inference address; its management address and key_file.json, for tokens. Default: our own server's.
    upstream: HttpUrl = Field(default_factory=lambda: torchserve.load().inference_url)
    management: HttpUrl = Field(default_factory=lambda: torchserve.load().management_url)
    token_file: Path = Field(default_factory=lambda: torchserve.load().key_file)
    artifact: Path | None = (
        None  # an artifact folder or .mar for the static list; None: that of the version that serves
    )
    connections: Count = 64  # to TorchServe, of each process

    key_file: Path | None = None  # hashed API keys; None: keys.json in `home`
    # What each API key may send over all processes; a key for one user (`user_`) may send less. A key's bytes may come
    # in bursts of one second, or of the longest body.
    rate_per_second: Rate = 1000
    rate_burst: Count = 1000
    bytes_per_second: Rate = 5_000_000  # of bodies
    max_body_bytes: Annotated[int, Field(ge=1024)] = 1_000_000  # as TorchServe's own limit
    user_rate_per_second: Rate = 20
    user_rate_burst: Count = 40
    user_bytes_per_second: Rate = 32_768
    user_max_body_bytes: Annotated[int, Field(ge=1024)] = 65_536
    head_seconds: Seconds = 10  # within which a request's line and headers must arrive
    body_seconds: Seconds = 10
    max_connections: Count = 1000  # of each process; a new one takes the place of a slow reader or an idle one

    drain_seconds: Annotated[float, Field(ge=0)] = 0  # between SIGTERM, when /readyz turns 503, and closing the port

    deadline_ms: Milliseconds = 300  # from the whole request to its answer; a client may ask for a shorter one
    reserve_ms: Milliseconds = 30  # of the deadline, kept for answering without TorchServe
    store_ms: Milliseconds = 100  # for reading the profile store
    cache_ms: Milliseconds = 20  # for reading or writing a cache in Redis
    breaker_failures: Count = 5
    breaker_seconds: Seconds = 1.0

    personalize_by_default: bool = True  # for users who were not asked for consent; false where law demands it
    cache: Annotated[str, Field(pattern=r"^(memory|off|(redis|rediss|unix)://.+)$")] = "memory"
    cache_mb: Count = 64
    cache_seconds: Annotated[float, Field(ge=0)] = 30  # how long an answer is given again
    stale_seconds: Seconds = 21_600  # how long a user's last answer is given again while TorchServe fails
    popular_seconds: Seconds = 10  # how often the popular list is read from TorchServe

    # Key the hash of users in logs and caches (user_keys.py): one per line, the newest first, or a folder of key files.
    user_secret: SecretStr = SecretStr("")
    user_keys: Path = Field(default_factory=paths.user_keys)
    served_queue: Count = 20_000  # lines that may wait for the disk
    # Keep histories, contexts, exclusions and filters of requests in `home`/requests, for experiments.replay. They are
    # personal data that the served log does not hold: turn it on to investigate something, then remove the folder.
    keep_requests: bool = False
    retention_days: Count = 30  # after which the lines of both logs are removed
    log_mb: Annotated[int, Field(ge=8)] = 10_000  # for each of the two, over all processes; then the oldest are removed

    rollout: Path | None = None  # the stage of a version on trial; None: the file of this project's own server
    shadow_queue: Count = 64  # requests of each process that may wait to be put to a version on trial

    experiment: str = ""
    arms: Annotated[dict[str, Arm], NoDecode, BeforeValidator(_parse_json)] = {}  # name -> share and version

    @field_validator("arms")
    @classmethod
    def _check_shares(cls, arms: dict[str, Arm]) -> dict[str, Arm]:
        total = sum(arm.share for arm in arms.values())
        if arms and abs(total - 1) > SHARES_TOLERANCE:
            raise ValueError(f"its shares sum to {total:g}; expected 1")
        return arms

    @property
    def keys_path(self) -> Path:
        return self.key_file or self.home / "keys.json"

    @property
    def stage_path(self) -> Path:
        return self.rollout or rollout_stage.stage_path(self.dataset, torchserve.load())

    @property
    def call_seconds(self) -> float:
        """What an ordinary request may spend on calls, before the reserve for a fallback begins."""
        return (self.deadline_ms - self.reserve_ms) / 1000


def variable(field: str) -> str:
    """The environment variable behind a field: port -> TIDEGATE_EDGE_PORT."""
    return PREFIX + field.upper()


def load() -> EdgeSettings:
    """Read the environment. Raises SettingsError: one line per invalid variable, or two that contradict each other."""
    settings = read_environment(EdgeSettings, PREFIX)
    if settings.arms and not settings.experiment:
        raise SettingsError(f"{variable('arms')} is set and {variable('experiment')} is not; an experiment has a name")
    if settings.reserve_ms >= settings.deadline_ms:
        within = f"{variable('deadline_ms')}, {settings.deadline_ms}"
        raise SettingsError(f"{variable('reserve_ms')} is {settings.reserve_ms}; expected less than {within}")
    return settings
