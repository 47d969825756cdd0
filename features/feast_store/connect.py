"""Feast for writers and batch jobs: through its own library where a repository is named, else through its server."""

from __future__ import annotations

from pathlib import Path

from features.online.errors import StoreError
from features.online.key_value_store import Engine


def open_feast(url: str, timeout_s: float) -> Engine:
    """A `features.online.connect.Opener`.

    Raises:
        StoreError: Feast is not installed, or the folder is no feature repository.
    """
    if not url.startswith("feast:///"):
        from features.feast_store.server_engine import ServerEngine

        return ServerEngine(url, timeout_s)
    try:
        from features.feast_store.sdk_engine import SdkEngine  # here: it takes seconds, and is an extra of its own
    except ModuleNotFoundError as error:
        raise StoreError(f"{error}; install Feast: pip install -c requirements.lock 'feast[grpcio]==0.67.*'") from None
    return SdkEngine(Path(url.removeprefix("feast://")), timeout_s)
