"""A real TorchServe under a real supervisor, without a registry: what served comes back, and no process is left behind."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from rollout_stages import make_stage
from running import wait_until
from signed_archives import TRUSTED, signed_archive

from config.paths import ROOT, STATE
from serving.deployment import rollout_stage
from serving.deployment.rollout_stage import Phase
from serving.settings import PORTS, ServerSettings, variable
from serving.torchserve import launch, server
from serving.torchserve.client import ServerError, TorchServe

pytestmark = pytest.mark.slow

NAME = "tiny"
SECONDS = 60  # a worker that waits for a server that is gone gives up after 30


@pytest.fixture(scope="module")
def environment(settings: ServerSettings, artifacts: dict[int, Path]) -> dict[str, str]:
    """Of a host without a registry that serves 1.0, and whose model store also holds a newer archive."""
    for seed, artifact in artifacts.items():
        signed_archive(artifact, settings.model_store / f"{NAME}-{seed}.0.mar", NAME, f"{seed}.0")
    stage = make_stage(Phase.SERVES, "1.0", None)
    assert rollout_stage.replace_stage(rollout_stage.stage_path(NAME, settings), None, stage)
    own = {variable(field): str(getattr(settings, field)) for field in (*PORTS, "server_home")}
    own |= {
        "TIDEGATE_TRUSTED_KEYS": TRUSTED,
        STATE: str(settings.state),
        "TIDEGATE_EDGE_DATASET": NAME,
        "MLFLOW_TRACKING_URI": "http://127.0.0.1:9",
    }
    return {**os.environ, **own}


def started(environment: dict[str, str], *command: str) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, *command], cwd=ROOT, env=environment)


def default(settings: ServerSettings) -> str | None:
    """The version that answers, if one does."""
    with suppress(ServerError), TorchServe.from_settings(settings) as client:
        return client.predict(NAME, {"k": 1})["model_version"]
    return None


def family(process: psutil.Process) -> list[psutil.Process]:
    return [process, *process.children(recursive=True)]


def is_over(processes: list[psutil.Process]) -> Callable[[], bool]:
    return lambda: not any(each.is_running() and each.status() != psutil.STATUS_ZOMBIE for each in processes)


def test_a_supervisor_restores_what_served_and_takes_everything_with_it_when_it_is_killed(
    settings: ServerSettings, environment: dict[str, str]
) -> None:
    supervisor = started(environment, "-m", "serving.supervisor", "--dataset", NAME)
    try:
        wait_until(lambda: default(settings) == "1.0", SECONDS)
        java, *workers = family(server.find(settings))
        assert workers
        java.kill()
        wait_until(is_over([java, *workers]), SECONDS)
        wait_until(lambda: default(settings) == "1.0", SECONDS)
        with TorchServe.from_settings(settings) as client:
            assert set(client.describe(NAME)) == {"1.0"}
        processes = family(psutil.Process(supervisor.pid))
        assert len(processes) >= 3
    finally:
        supervisor.kill()
        supervisor.wait()
    wait_until(is_over(processes), SECONDS)
    launch.check_ports(settings)


def test_a_server_that_a_command_starts_to_stay_outlives_it(
    settings: ServerSettings, environment: dict[str, str]
) -> None:
    command = started(environment, "-m", "serving.install")
    assert command.wait() == 0
    try:
        assert default(settings) == "1.0"
    finally:
        server.stop(settings)
