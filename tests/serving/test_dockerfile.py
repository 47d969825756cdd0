"""The image's steps, taken one by one in an empty folder: what they leave starts, answers and stops.

There is no Docker where these tests run. TIDEGATE_BUILD_IMAGE=1 also takes the steps of pip, in a new environment that
holds the serving lock and nothing else: 42 s and 1.2 GB here, so not at every run. Without it, this environment serves.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import dockerfile
import grimp
import httpx
import pytest
from dockerfile import Image

from config.paths import ROOT
from serving import package
from serving.edge.settings import EdgeSettings
from serving.settings import ServerSettings
from serving.torchserve import server
from serving.torchserve.client import TorchServe

PATH = ROOT / "serving" / "Dockerfile"
BUILD = "TIDEGATE_BUILD_IMAGE"
FOLDERS = ("config", "data", "features", "training", "serving", "experiments")
RUN_THERE = ("serving.install", "serving.edge.serve", "serving.edge.app", "serving.edge.keys", "serving.server")


def test_every_step_is_one_that_these_tests_know() -> None:
    known = {"FROM", "ARG", "ENV", "WORKDIR", "COPY", "RUN", "USER", "VOLUME", "EXPOSE", "HEALTHCHECK", "ENTRYPOINT"}
    assert {name for name, _ in dockerfile.steps(PATH)} <= known
    assert dockerfile.of(PATH, "FROM") == ["python:3.11-slim"]
    assert dockerfile.of(PATH, "WORKDIR") == [dockerfile.WORKDIR]


def test_it_runs_as_nobody_in_particular_and_opens_the_edge_alone() -> None:
    (user,) = dockerfile.of(PATH, "USER")
    assert int(user.partition(":")[0]) > 0
    assert dockerfile.of(PATH, "EXPOSE") == [str(EdgeSettings.model_fields["port"].default)]
    settings = [name for rest in dockerfile.of(PATH, "ENV") for name in rest.split()]
    assert [name for name in settings if "HOST=" in name] == ["TIDEGATE_EDGE_HOST=0.0.0.0"]


def test_all_code_that_runs_there_is_copied() -> None:
    graph = grimp.build_graph(*FOLDERS, cache_dir=None)
    needed = set(RUN_THERE)
    for module in RUN_THERE:
        needed |= graph.find_upstream_modules(module)
    copied = {source for rest in dockerfile.of(PATH, "COPY") for source in rest.split()[:-1]}
    assert {module.partition(".")[0] for module in needed} <= copied
    assert all((ROOT / source).exists() for source in copied)


def wait_until(holds: Callable[[], bool], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it did not come to hold"
        time.sleep(0.2)


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Image:
    folder, home = tmp_path_factory.mktemp("image"), tmp_path_factory.mktemp("python")
    build = bool(os.environ.get(BUILD))
    if build:
        subprocess.run([sys.executable, "-m", "venv", str(home)], check=True)
    made = Image(PATH, ROOT, folder, home / "bin" if build else Path(sys.executable).parent)
    made.build(run=build)
    return made


@pytest.fixture(scope="module")
def places(image: Image) -> Iterator[dict[str, str]]:
    """Ports that are free, on loopback; whatever still runs of the image ends with the tests."""
    fields = ("INFERENCE_PORT", "MANAGEMENT_PORT", "METRICS_PORT", "GRPC_INFERENCE_PORT", "GRPC_MANAGEMENT_PORT")
    names = [f"TIDEGATE_{field}" for field in fields] + ["TIDEGATE_EDGE_PORT", "TIDEGATE_EDGE_METRICS_PORT"]
    probes = [socket.create_server(("127.0.0.1", 0)) for _ in names]
    ports = {name: str(probe.getsockname()[1]) for name, probe in zip(names, probes, strict=True)}
    for probe in probes:
        probe.close()
    yield {**ports, "TIDEGATE_EDGE_HOST": "127.0.0.1", "TIDEGATE_EDGE_DATASET": "tiny"}
    server.stop(settings_of(image, ports))


def settings_of(image: Image, places: dict[str, str]) -> ServerSettings:
    ports = {name.removeprefix("TIDEGATE_").lower(): int(value) for name, value in places.items() if "PORT" in name}
    return ServerSettings(server_home=image.folder / "state" / "torchserve", state=image.folder / "state", **ports)


def inside(image: Image, places: dict[str, str], *command: str) -> str:
    """As `docker exec` would."""
    done = subprocess.run(
        ["python", "-m", *command],
        cwd=image.folder,
        env={**image.environment, **places},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def ask(places: dict[str, str], key: str) -> dict:
    url = f"http://127.0.0.1:{places['TIDEGATE_EDGE_PORT']}/v1/recommendations"
    body = {"history": [{"item_id": "item-01", "event_time": "2026-01-01T00:00:00Z"}], "k": 3}
    got = httpx.post(url, json=body, headers={"Authorization": f"Bearer {key}"}, trust_env=False, timeout=30)
    return got.json() if got.status_code == 200 else {"rung": f"none, but {got.status_code}"}


@pytest.mark.slow
def test_what_the_steps_leave_starts_takes_an_archive_answers_and_serves_on_when_started_anew(
    image: Image, places: dict[str, str], artifacts: dict[int, Path], tmp_path: Path
) -> None:
    package.build(artifacts[1], tmp_path / "tiny-3.0.mar", "tiny", "3.0")
    assert not (image.folder / "out").exists()
    container = image.start(**places)
    try:
        key = inside(image, places, "serving.edge.keys", "make").split()[-1]
        inside(image, places, "serving.install", str(tmp_path / "tiny-3.0.mar"))
        wait_until(lambda: image.healthy(**places))
        wait_until(lambda: ask(places, key)["rung"] == "personalised")
        assert ask(places, key)["model_version"] == "3.0"
    finally:
        end(container)
    assert not image.healthy(**places)
    server.find(settings_of(image, places)).kill()  # as the end of the container would
    wait_until(lambda: server.find(settings_of(image, places)) is None)

    container = image.start(**places)
    try:
        wait_until(lambda: image.healthy(**places))
        wait_until(lambda: ask(places, key)["rung"] == "personalised")
        with TorchServe.from_settings(settings_of(image, places)) as client:
            assert client.describe("tiny")["3.0"].default
    finally:
        end(container)


def end(container: subprocess.Popen[bytes]) -> None:
    """As `docker stop` would; a shell that has not given its place to the edge yet takes its child with it."""
    os.killpg(container.pid, signal.SIGTERM)
    container.wait(30)
