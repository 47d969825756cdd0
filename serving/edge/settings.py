"""Where the edge listens, how patient it is and what it keeps: environment variables, never params.yaml."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from config import params, paths
from config.paths import ROOT
from serving import settings as torchserve
from serving.deployment import rollout_stage
from serving.settings import Port, SettingsError

PREFIX = "TIDEGATE_EDGE_"
SHARES_TOLERANCE = 1e-9

Milliseconds = Annotated[int, Field(ge=1, le=60_000)]
Seconds = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]


class Arm(BaseModel):
    """One arm of an experiment: its share of the users, and the loaded version that answers them (None: the default)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    share: Annotated[float, Field(ge=0, le=1)]
    version: Annotated[str, Field(pattern=r"^\d+\.\d+$")] | None = None


def _json(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except ValueError as error:
        raise ValueError(f"it is not JSON: {error}") from None


class EdgeSettings(BaseSettings):
    """Each field is read from `TIDEGATE_EDGE_<FIELD>`; an empty variable counts as unset."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, env_ignore_empty=True, frozen=True, extra="ignore")

    host: str = "127.0.0.1"
    port: Port = 8090
    metrics_host: str = "127.0.0.1"  # has no authorization of its own
    metrics_port: Port = 8091
    home: Path = Field(default_factory=paths.edge)
    workers: Count = 1

    dataset: str = ""  # the model to ask; empty: params.dataset
    upstream: Annotated[str, Field(pattern=r"^(http://[^/]+)?$")] = (
        ""  # TorchServe's inference address; empty: this project's own server
    )
    management: Annotated[str, Field(pattern=r"^(http://[^/]+)?$")] = ""  # its management address, for new tokens alone
    token_file: Path | None = None  # its key_file.json; None: this project's own server's
    artifact: Path | None = None  # an artifact folder or .mar for the static list; None: the newest in the model store
    connections: Count = 64  # to TorchServe, of each process

    key_file: Path | None = None  # hashed API keys; None: keys.json in `home`
    keys: SecretStr = SecretStr("")  # the same as JSON, for machines without a disk of their own
    rate_per_second: Seconds = 1000  # of each API key, over all processes
    rate_burst: Count = 1000
    max_body_bytes: Annotated[int, Field(ge=1024)] = 1_000_000  # as TorchServe's own bound
    body_seconds: Seconds = 10

    deadline_ms: Milliseconds = 300  # from the whole request to its answer; a client may state a shorter one
    reserve_ms: Milliseconds = 30  # of the deadline, kept for answering without TorchServe
    store_ms: Milliseconds = 100
    cache_ms: Milliseconds = 20
    breaker_failures: Count = 5
    breaker_seconds: Seconds = 1.0

    consent_unasked: bool = True  # whether to personalise for users whom nobody asked; false where law wants a yes
    cache: Annotated[str, Field(pattern=r"^(memory|off|(redis|rediss|unix)://.+)$")] = "memory"
    cache_mb: Count = 64
    cache_seconds: Annotated[float, Field(ge=0)] = 30  # an answer younger than this is given again
    stale_seconds: Seconds = 21_600  # and while TorchServe fails, one younger than this
    popular_seconds: Seconds = 10  # how often TorchServe is asked for its popular list

    user_secret: SecretStr = SecretStr("")  # keys the hash of users in logs and caches; empty: user.key in `home`
    served_log: bool = True
    served_queue: Count = 20_000  # lines that may wait for the disk
    # Histories, contexts, exclusions and filters as requests state them, in `home`/requests, for experiments.replay. They
    # are personal data that no line of the served log holds: turn it on to look into something, then remove the folder.
    keep_requests: bool = False

    rollout: Path | None = None  # how far a version on trial has come; None: the file of this project's own server
    shadow_queue: Count = 64  # requests that may wait to be put to it as well, of each process

    experiment: str = ""
    arms: Annotated[dict[str, Arm], NoDecode, BeforeValidator(_json)] = {}

    @field_validator("arms")
    @classmethod
    def _whole(cls, arms: dict[str, Arm]) -> dict[str, Arm]:
        total = sum(arm.share for arm in arms.values())
        if arms and abs(total - 1) > SHARES_TOLERANCE:
            raise ValueError(f"its shares sum to {total:g}; expected 1")
        return arms

    @property
    def keys_path(self) -> Path:
        return self.key_file or self.home / "keys.json"


def variable(field: str) -> str:
    """The environment variable behind a field: port -> TIDEGATE_EDGE_PORT."""
    return PREFIX + field.upper()


def load() -> EdgeSettings:
    """Read the environment; what is left empty is filled from this project's own server and params.yaml.

    Raises:
        SettingsError: one line per variable that cannot be, or two that cannot be together.
    """
    try:
        settings = EdgeSettings()
    except ValidationError as error:
        raise SettingsError("\n".join(_sentence(fault) for fault in error.errors())) from None
    if settings.arms and not settings.experiment:
        raise SettingsError(f"{variable('arms')} is set and {variable('experiment')} is not; an experiment has a name")
    if settings.reserve_ms >= settings.deadline_ms:
        within = f"{variable('deadline_ms')}, {settings.deadline_ms}"
        raise SettingsError(f"{variable('reserve_ms')} is {settings.reserve_ms}; expected less than {within}")
    server = torchserve.load()
    dataset = settings.dataset or params.load(ROOT / "params.yaml").dataset
    filled = {
        "dataset": dataset,
        "rollout": settings.rollout or rollout_stage.place(dataset, server),
        "upstream": settings.upstream or server.inference_url,
        "management": settings.management or server.management_url,
        "token_file": settings.token_file or server.key_file,
    }
    return settings.model_copy(update=filled)


def _sentence(fault: Any) -> str:
    name = variable(str(fault["loc"][0]).lower().removeprefix(PREFIX.lower()))
    where = "".join(f".{part}" for part in fault["loc"][1:])
    said = fault["msg"].removeprefix("Value error, ")
    return f"{name}{where} is {fault['input']!r}; {said[:1].lower()}{said[1:]}"
