"""Artifacts, registries and a live server for the tests of serving."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import tiny_artifact
from own_registry import use_registry

from serving.settings import PORTS, ServerSettings


@pytest.fixture(scope="session")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Two artifacts of two models; not to be changed (copy what you want to break)."""
    folder = tmp_path_factory.mktemp("artifacts")
    return {seed: tiny_artifact.write(folder / str(seed), seed) for seed in (1, 2)}


@pytest.fixture
def registry_folder(tmp_path: Path, empty_registry: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A fresh registry that `serving.deployment.registry` uses."""
    use_registry(tmp_path, empty_registry, monkeypatch)
    return tmp_path


@pytest.fixture
def two(artifacts: dict[int, Path], registry_folder: Path) -> tuple[str, str]:
    """Two registered versions of `tiny`."""
    from serving.deployment import registry

    first = registry.register_version("tiny", artifacts[1], tags={"label": "item_knn"})
    return first, registry.register_version("tiny", artifacts[2])


@pytest.fixture
def keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty key folder: nothing is there yet, and no variable holds a key."""
    monkeypatch.chdir(tmp_path)
    for role in ("GATE", "OPERATOR"):
        monkeypatch.delenv(f"TIDEGATE_{role}_KEY")
    return tmp_path / "out/state/keys"


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> ServerSettings:
    """A server of its own, on ports that were free a moment ago."""
    probes = [socket.create_server(("127.0.0.1", 0)) for _ in PORTS]
    ports = {field: probe.getsockname()[1] for field, probe in zip(PORTS, probes, strict=True)}
    for probe in probes:
        probe.close()
    return ServerSettings(
        server_home=tmp_path_factory.mktemp("torchserve"), state=tmp_path_factory.mktemp("state"), **ports
    )


@pytest.fixture(scope="module")
def live(settings: ServerSettings) -> Iterator[ServerSettings]:
    """A running server; stopped at the end of the module."""
    from serving.torchserve import server

    server.start(settings, set, end_with_parent=True)
    yield settings
    server.stop(settings)
