"""Ask the server what it serves. Loads no torch: a rollback must not wait for it."""

from __future__ import annotations

import time

from serving.deployment.errors import DeployError
from serving.torchserve.client import ServerError, TorchServe

RETRY_SECONDS = 0.25


def check_serves(name: str, version: str, client: TorchServe, wait_seconds: float = 10.0) -> None:
    """Ask the server whether a version answers by default, so that no command says so of what it only ordered.

    Raises:
        DeployError: another version is the default, or no answer of this one came in `wait_seconds`.
    """
    deadline = time.monotonic() + wait_seconds
    while True:
        default = [live.version for live in client.describe(name).values() if live.default]
        if default != [version]:
            raise DeployError(f"{name} {version} does not serve: {default[0] if default else 'nothing'} is the default")
        try:
            answered = client.predict(name, {"k": 1}).get("model_version")
            if answered == version:
                return
            problem = f"{answered} answered"
        except ServerError as error:
            problem = str(error)
        if time.monotonic() > deadline:
            raise DeployError(f"{name} {version} is the default, but it does not serve: {problem}")
        time.sleep(RETRY_SECONDS)
