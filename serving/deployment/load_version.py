"""Load a model archive on the live server, check its golden requests, and make it the default.

This module does not know the registry, so it also works in a container without MLflow.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from config.command import UserError
from serving.artifact.archive import ModelArchive
from serving.deployment import rollout_stage
from serving.deployment.errors import DeployError
from serving.deployment.rollout_stage import answering_versions
from serving.settings import ServerSettings
from serving.torchserve import server
from serving.torchserve.client import ServerError, TorchServe
from serving.worker.response import find_difference

RETRY_SECONDS = 0.25
STARTING_STATUSES = (None, 503, 507)  # of a worker that is starting or restarting

Progress = Callable[[str], None]


class GoldenRequestError(UserError):
    """A loaded version does not answer its golden requests as its artifact did at export."""


def check_golden_requests(
    archive: ModelArchive, client: TorchServe, wait_seconds: float, waits: Callable[[], bool] = lambda: True
) -> None:
    """Check that this version answers each golden request as at export, retrying as long as `waits` returns True.

    Raises:
        GoldenRequestError: an answer differs, or a worker that is starting gives none in `wait_seconds`.
    """
    deadline = time.monotonic() + wait_seconds
    for number, case in enumerate(archive.golden_requests):
        answer = _predict(archive, case["request"], client, deadline, waits)
        fault = find_difference(case["answer"], answer)
        if fault is None and answer.get("model_version") != archive.version:
            fault = f"model_version is {answer.get('model_version')}, not {archive.version}"
        if fault is not None:
            raise GoldenRequestError(f"the answer to golden request {number} differs from that at export: {fault}")


def load_version(
    archive: ModelArchive,
    client: TorchServe,
    settings: ServerSettings,
    progress: Progress,
    waits: Callable[[], bool] = lambda: True,
) -> None:
    """Load a version next to the others and check its golden requests, as `check_golden_requests` does.

    Raises:
        DeployError: it cannot be loaded or its answers differ; it is unloaded again.
    """
    if archive.version in client.describe(archive.name):
        try:
            check_golden_requests(archive, client, settings.load_seconds, waits)
            return
        except GoldenRequestError as error:
            progress(f"{archive} is loaded, but {error}; loading it again")
            _unload(archive, client, settings)
    log_size = server.worker_log_size(settings)
    try:
        batching = {"batch_size": settings.batch_size, "batch_delay_ms": settings.batch_delay_ms}
        client.register(archive.path.name, archive.name, **batching, answer_seconds=settings.answer_seconds)
        check_golden_requests(archive, client, settings.load_seconds, waits)
    except (ServerError, GoldenRequestError) as error:
        cause = server.load_failure(settings, log_size) if isinstance(error, ServerError) else ""
        if archive.version in client.describe(archive.name):
            _unload(archive, client, settings)
        default = [version.version for version in client.describe(archive.name).values() if version.default]
        still = f"{archive.name} {default[0]} still answers" if default else f"no version of {archive.name} answers"
        raise DeployError(f"{archive}: {cause or error}; {still}") from None
    count = len(archive.golden_requests)
    progress(f"loaded {archive}; TorchServe answers {count} of {count} golden requests as at export")


def make_default(archive: ModelArchive, client: TorchServe, settings: ServerSettings, progress: Progress) -> None:
    """Give a loaded version all its workers, then make it the default version.

    Raises:
        ServerError: a worker did not start; the default did not change.
    """
    live = client.describe(archive.name)[archive.version]
    if live.workers != settings.workers:
        client.scale(archive.name, archive.version, settings.workers)
    if not live.default:
        client.set_default(archive.name, archive.version)
        progress(f"{archive} is the default version")


def _predict(
    archive: ModelArchive, request: dict, client: TorchServe, deadline: float, waits: Callable[[], bool]
) -> dict:
    while True:
        try:
            return client.predict(archive.name, request, archive.version)
        except ServerError as error:
            if error.status not in STARTING_STATUSES or time.monotonic() > deadline or not waits():
                raise GoldenRequestError(f"it does not answer: {error}") from None
            time.sleep(RETRY_SECONDS)


def _unload(archive: ModelArchive, client: TorchServe, settings: ServerSettings) -> None:
    """Unload a version. If it is the default, so are the others, unless one of them may answer all users in its place.

    Without any, the edge answers from its fallbacks. TorchServe does not unload the default while others are loaded.
    """
    live = client.describe(archive.name)
    if live.pop(archive.version).default and live:
        stage, allowed = rollout_stage.read_stage(rollout_stage.stage_path(archive.name, settings)), set(live)
        if stage is not None:  # a version on trial may answer its share only
            allowed &= answering_versions(stage) - ({stage.version} if stage.on_trial else set())
        if allowed:
            client.set_default(archive.name, max(allowed, key=lambda version: live[version].ready))
        else:
            for other in live:
                client.unregister(archive.name, other)
    client.unregister(archive.name, archive.version)
