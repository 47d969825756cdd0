"""Settings of the model server: addresses, folders, limits and signing keys. From environment variables only."""

from __future__ import annotations

import os
from functools import lru_cache
from itertools import combinations
from pathlib import Path
from typing import Annotated

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from config import paths
from config.validation import Count, Port, SettingsError, read_environment

PREFIX = "TIDEGATE_"
PORTS = ("inference_port", "management_port", "metrics_port", "grpc_inference_port", "grpc_management_port")


class ServerSettings(BaseSettings):
    """Each field is read from `TIDEGATE_<FIELD>`; an empty variable counts as unset."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, env_ignore_empty=True, frozen=True, extra="ignore")

    host: str = "127.0.0.1"  # loopback: TorchServe is unmaintained, so only our own edge may talk to it
    inference_port: Port = 8080
    management_port: Port = 8081
    metrics_port: Port = 8082  # has no authorization of its own
    grpc_inference_port: Port = 7070
    grpc_management_port: Port = 7071

    state: Path = Field(default_factory=paths.state)  # what must never be lost
    server_home: Path = paths.TORCHSERVE
    start_seconds: Annotated[float, Field(gt=0)] = 60
    heap_mb: Annotated[int, Field(ge=128)] = 1024  # limits the frontend's memory
    max_request_bytes: Annotated[int, Field(ge=1024)] = 1_000_000
    token_minutes: Annotated[float, Field(gt=0)] = 60

    workers: Count = 1
    batch_size: Count = 8
    batch_delay_ms: Annotated[int, Field(ge=0)] = 1  # wait for more requests of a batch; with 0 a batch holds at most 2
    load_seconds: Count = 120  # how long a new version may take to load
    answer_seconds: Count = 10  # after which a request is given up and its worker restarted

    # Keys of signatures; see serving/deployment/key_pairs.py. None: the file is in `keys`.
    gate_key: SecretStr = SecretStr("")  # the private key as text, in PEM form
    gate_key_file: Path | None = None
    operator_key: SecretStr = SecretStr("")
    operator_key_file: Path | None = None
    trusted_keys: str = ""  # public keys as text, one per line
    trusted_keys_file: Path | None = None

    @property
    def inference_url(self) -> str:
        return f"http://{self.host}:{self.inference_port}"

    @property
    def management_url(self) -> str:
        return f"http://{self.host}:{self.management_port}"

    @property
    def model_store(self) -> Path:
        return self.server_home / "models"

    @property
    def keys(self) -> Path:
        return self.state / paths.KEYS

    @property
    def trusted_keys_path(self) -> Path:
        return self.trusted_keys_file or self.keys / "trusted"

    @property
    def key_file(self) -> Path:
        """Where TorchServe writes its tokens, anew at each start and renewal."""
        return self.server_home / "key_file.json"


def variable(field: str) -> str:
    """The environment variable of a field: inference_port -> TIDEGATE_INFERENCE_PORT."""
    return PREFIX + field.upper()


def load() -> ServerSettings:
    """Read the environment. Raises SettingsError with one line per invalid variable."""
    return _load(tuple(entry for entry in os.environ.items() if entry[0].upper().startswith(PREFIX)))


@lru_cache(maxsize=1)  # reading takes a millisecond, and each check of a signature reads several times
def _load(environment: tuple[tuple[str, str], ...]) -> ServerSettings:
    """The settings of this process's environment, whose variables are given to notice a change."""
    settings = read_environment(ServerSettings, PREFIX)
    for one, other in combinations(PORTS, 2):
        if (port := getattr(settings, one)) == getattr(settings, other):
            raise SettingsError(f"{variable(one)} and {variable(other)} are both {port}")
    return settings
