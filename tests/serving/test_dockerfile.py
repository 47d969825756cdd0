"""The Dockerfile's steps, run one by one in an empty folder, give an image that starts, answers and stops.

These tests run without Docker. TIDEGATE_BUILD_IMAGE=1 also runs the pip steps, in a new environment with only the serving
lock, which takes 42 s and 1.2 GB. Without it, this environment's packages are used.
"""

from __future__ import annotations

import os
import re
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import dockerfile
import grimp
import httpx
import psutil
import pytest
from dockerfile import Image
from signed_archives import TRUSTED, signed_archive

from config.paths import ROOT
from serving.edge.settings import EdgeSettings
from serving.settings import ServerSettings
from serving.torchserve import server
from serving.torchserve.client import TorchServe

PATH = ROOT / "serving" / "Dockerfile"
BUILD = "TIDEGATE_BUILD_IMAGE"
FOLDERS = ("config", "web", "data", "features", "training", "serving", "experiments")
ENTRY_MODULES = (
    "serving.container",
    "serving.supervisor",
    "serving.install",
    "serving.edge.serve",
    "serving.edge.app",
    "serving.edge.keys",
    "serving.server",
)
# As `docker run --read-only` does. Memory stays writable at /dev/shm there, too.
READ_ONLY = """
mount --bind "$STATE" "$STATE" && mount -o remount,bind,ro / || exit 99
for folder in /tmp /var/tmp; do mountpoint -q $folder && mount -o remount,bind,ro $folder; done
touch "$STATE/../written" 2>/dev/null && exit 98
touch /tmp/written 2>/dev/null && exit 98
cd "$STATE/.." && exec "$@"
"""


def test_every_instruction_is_known_to_these_tests() -> None:
    known = {"FROM", "ARG", "ENV", "WORKDIR", "COPY", "RUN", "USER", "VOLUME", "EXPOSE", "HEALTHCHECK", "ENTRYPOINT"}
    assert {name for name, _ in dockerfile.steps(PATH)} <= known
    (base,) = dockerfile.arguments(PATH, "FROM")
    assert re.fullmatch(r"python:3\.11-slim-bookworm@sha256:[0-9a-f]{64}", base)
    assert dockerfile.arguments(PATH, "WORKDIR") == [dockerfile.WORKDIR]


def test_it_runs_as_an_unprivileged_user_and_exposes_only_the_edge() -> None:
    (user,) = dockerfile.arguments(PATH, "USER")
    assert int(user.partition(":")[0]) > 0
    assert dockerfile.arguments(PATH, "EXPOSE") == [str(EdgeSettings.model_fields["port"].default)]
    settings = [name for rest in dockerfile.arguments(PATH, "ENV") for name in rest.split()]
    assert [name for name in settings if "HOST=" in name] == ["TIDEGATE_EDGE_HOST=0.0.0.0"]


def test_all_code_that_the_image_runs_is_copied() -> None:
    graph = grimp.build_graph(*FOLDERS, cache_dir=None)
    needed = set(ENTRY_MODULES)
    for module in ENTRY_MODULES:
        needed |= graph.find_upstream_modules(module)
    copied = {source for rest in dockerfile.arguments(PATH, "COPY") for source in rest.split()[:-1]}
    assert {module.partition(".")[0] for module in needed} <= copied
    assert all((ROOT / source).exists() for source in copied)


def wait_until(condition: Callable[[], bool], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition did not become true"
        time.sleep(0.2)


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Image:
    folder, home = tmp_path_factory.mktemp("image"), tmp_path_factory.mktemp("python")
    build = bool(os.environ.get(BUILD))
    if build:
        subprocess.run([sys.executable, "-m", "venv", str(home)], check=True)
    image = Image(PATH, ROOT, folder, home / "bin" if build else Path(sys.executable).parent)
    image.build(run_pip=build)
    return image


@pytest.fixture(scope="module")
def variables(image: Image) -> Iterator[dict[str, str]]:
    """Environment variables with free ports on loopback; the server is stopped after the tests."""
    fields = ("INFERENCE_PORT", "MANAGEMENT_PORT", "METRICS_PORT", "GRPC_INFERENCE_PORT", "GRPC_MANAGEMENT_PORT")
    names = [f"TIDEGATE_{field}" for field in fields] + ["TIDEGATE_EDGE_PORT", "TIDEGATE_EDGE_METRICS_PORT"]
    probes = [socket.create_server(("127.0.0.1", 0)) for _ in names]
    ports = {name: str(probe.getsockname()[1]) for name, probe in zip(names, probes, strict=True)}
    for probe in probes:
        probe.close()
    yield {
        **ports,
        "TIDEGATE_EDGE_HOST": "127.0.0.1",
        "TIDEGATE_EDGE_DATASET": "tiny",
        "TIDEGATE_TRUSTED_KEYS": TRUSTED,
    }
    server.stop(settings_of(image, ports))


def settings_of(image: Image, variables: dict[str, str]) -> ServerSettings:
    ports = {name.removeprefix("TIDEGATE_").lower(): int(value) for name, value in variables.items() if "PORT" in name}
    return ServerSettings(server_home=image.folder / "state" / "torchserve", state=image.folder / "state", **ports)


def inside(image: Image, variables: dict[str, str], *command: str) -> str:
    """Run a command as `docker exec` does."""
    done = subprocess.run(
        ["python", "-m", *command],
        cwd=image.folder,
        env={**image.environment, **variables},
        capture_output=True,
        encoding="utf-8",
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def ask(variables: dict[str, str], key: str) -> dict:
    url = f"http://127.0.0.1:{variables['TIDEGATE_EDGE_PORT']}/v1/recommendations"
    body = {"history": [{"item_id": "item-01", "event_time": "2026-01-01T00:00:00Z"}], "k": 3}
    body["exclude"] = [secrets.token_hex(8)]  # so that no answer comes from the cache
    got = httpx.post(url, json=body, headers={"Authorization": f"Bearer {key}"}, trust_env=False, timeout=30)
    return got.json() if got.status_code == 200 else {"source": f"none: status {got.status_code}"}


def read_only(image: Image) -> list[str]:
    """A command that runs its arguments where only the state can be written; none where this machine does not allow it."""
    namespace = ["unshare", "--map-root-user", "--mount"]
    if subprocess.run([*namespace, "true"], stderr=subprocess.DEVNULL).returncode:
        return []
    return [*namespace, "env", f"STATE={image.folder / 'state'}", "sh", "-c", READ_ONLY, "sh"]


def answers(variables: dict[str, str], key: str) -> bool:
    with suppress(httpx.HTTPError):
        return ask(variables, key)["source"] == "personalized"
    return False


@pytest.mark.slow
def test_the_image_installs_an_archive_heals_drains_and_serves_it_again_with_only_its_state_writable(
    image: Image, variables: dict[str, str], artifacts: dict[int, Path], tmp_path: Path
) -> None:
    signed_archive(artifacts[1], tmp_path / "tiny-3.0.mar", "tiny", "3.0")
    settings = settings_of(image, variables)
    assert not (image.folder / "out").exists()
    container = image.start(*read_only(image), **variables)
    try:
        key = inside(image, variables, "serving.edge.keys", "make").split()[-1]
        wait_until(lambda: server.find(settings) is not None)
        inside(image, variables, "serving.install", str(tmp_path / "tiny-3.0.mar"))
        wait_until(lambda: image.healthy(**variables))
        wait_until(lambda: answers(variables, key))
        assert ask(variables, key)["model_version"] == "3.0"

        server.find(settings).kill()
        wait_until(lambda: answers(variables, key))
        wait_until(lambda: image.healthy(**variables))
        (edge,) = [each for each in children(container) if "serving.edge.serve" in each.cmdline()]
        edge.kill()
        wait_until(lambda: answers(variables, key))

        processes = children(container)
        assert len(processes) >= 4  # supervisor, edge, Java, worker
        url = f"http://127.0.0.1:{variables['TIDEGATE_EDGE_PORT']}/readyz"
        container.terminate()
        wait_until(lambda: httpx.get(url, trust_env=False).status_code == 503, 5)
        assert answers(variables, key), "it drains"
        assert container.wait(60) == 0
    finally:
        container.kill()
    assert not [each for each in processes if each.is_running()]

    container = image.start(*read_only(image), **variables)
    try:
        wait_until(lambda: answers(variables, key))
        with TorchServe.from_settings(settings) as client:
            assert client.describe("tiny")["3.0"].default
        processes = children(container)
    finally:
        container.kill()  # leaves nothing behind
        container.wait()
    wait_until(lambda: not [each for each in processes if each.is_running()])


def children(container: subprocess.Popen[bytes]) -> list[psutil.Process]:
    return psutil.Process(container.pid).children(recursive=True)
