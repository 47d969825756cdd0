"""Have a version answer on the live server: loaded beside the others, its golden requests answered, then the default.

Knows no registry, so it works where MLflow is not installed.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from config.command import UserError
from serving.package import Build
from serving.settings import ServerSettings
from serving.torchserve import server
from serving.torchserve.client import LoadedVersion, ServerError, TorchServe
from serving.worker.response import find_difference

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
        fault = find_difference(case["answer"], answer)
        if fault is None and answer.get("model_version") != build.version:
            fault = f"model_version is {answer.get('model_version')}, not {build.version}"
        if fault is not None:
            raise RehearsalError(f"golden request {number} is answered differently than at export: {fault}")


def _ask(build: Build, request: dict, client: TorchServe, deadline: float) -> dict:
    while True:
        try:
            return client.predict(build.name, request, build.version)
        except ServerError as error:
            if error.status not in PASSING or time.monotonic() > deadline:
                raise RehearsalError(f"it does not answer: {error}") from None
            time.sleep(RETRY_SECONDS)


Say = Callable[[str], None]


class DeployError(UserError):
    """The new version does not serve; the text says why, and what answers instead."""


def bring_up(build: Build, client: TorchServe, settings: ServerSettings, say: Say) -> None:
    """Have the version loaded, with its golden requests answered as at export.

    Raises:
        DeployError: it cannot be loaded or answers otherwise; it is unloaded again.
    """
    live = client.describe(build.name)
    if build.version in live:
        try:
            rehearse(build, client, settings.load_seconds)
            return
        except RehearsalError as error:
            say(f"{build.name} {build.version} is loaded, but {error}; loading it anew")
            _unload(build.version, live, client, build.name)
    log_size = server.worker_log_size(settings)
    try:
        client.register(
            build.archive.name,
            build.name,
            batch_size=settings.batch_size,
            batch_delay_ms=settings.batch_delay_ms,
            answer_seconds=settings.answer_seconds,
        )
        rehearse(build, client, settings.load_seconds)
    except (ServerError, RehearsalError) as error:
        cause = server.load_failure(settings, log_size) if isinstance(error, ServerError) else ""
        _give_up(build, client)
        raise DeployError(f"{build.name} {build.version}: {cause or error}; {_who_answers(build, client)}") from None
    say(f"loaded {build.name} {build.version}; {len(build.golden)} golden requests answered as at export")


def make_default(build: Build, client: TorchServe, settings: ServerSettings, say: Say) -> None:
    """Give a loaded version all its workers, then everybody who names no version. Each worker answers the golden
    requests before it counts as ready.

    Raises:
        ServerError: a worker did not come up; who was the default still is.
    """
    live = client.describe(build.name)[build.version]
    if live.workers != settings.workers:
        client.scale(build.name, build.version, settings.workers)
    if not live.default:
        client.set_default(build.name, build.version)
        say(f"{build.name} {build.version} answers now")


def _unload(version: str, live: dict[str, LoadedVersion], client: TorchServe, name: str) -> None:
    others = [other for other in live.values() if other.version != version]
    if live[version].default and others:  # TorchServe keeps the default while others are loaded
        client.set_default(name, max(others, key=lambda other: other.ready).version)
    client.unregister(name, version)


def _give_up(build: Build, client: TorchServe) -> None:
    """Take a failed version away. TorchServe has unloaded one whose worker never started."""
    live = client.describe(build.name)
    if build.version in live:
        _unload(build.version, live, client, build.name)


def _who_answers(build: Build, client: TorchServe) -> str:
    default = [about.version for about in client.describe(build.name).values() if about.default]
    return f"{build.name} {default[0]} answers as before" if default else f"no version of {build.name} answers"
