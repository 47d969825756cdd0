"""Ask a live version its golden requests, and compare with the answers given at export."""

from __future__ import annotations

import time

from command import UserError
from serving.package import Build
from serving.torchserve.client import ServerError, TorchServe
from serving.worker.golden import difference

RETRY_SECONDS = 0.25
PASSING = (None, 503, 507)  # statuses of a worker that is starting, or starting again


class RehearsalError(UserError):
    """A live version does not answer its golden requests as its artifact did at export."""


def rehearse(build: Build, client: TorchServe, patience: float) -> None:
    """See that each golden request is answered as at export, by this very version.

    Args:
        patience: seconds to wait for a worker that is starting.

    Raises:
        RehearsalError: an answer differs, or none comes in time.
    """
    deadline = time.monotonic() + patience
    for number, case in enumerate(build.golden):
        answer = _ask(build, case["request"], client, deadline)
        fault = difference(case["answer"], answer)
        if fault is None and answer.get("model_version") != build.version:
            fault = f"model_version is {answer.get('model_version')}, not {build.version}"
        if fault is not None:
            raise RehearsalError(f"golden request {number} is answered otherwise than at export: {fault}")


def _ask(build: Build, request: dict, client: TorchServe, deadline: float) -> dict:
    while True:
        try:
            return client.predict(build.name, request, build.version)
        except ServerError as error:
            if error.status not in PASSING or time.monotonic() > deadline:
                raise RehearsalError(f"it does not answer: {error}") from None
            time.sleep(RETRY_SECONDS)
