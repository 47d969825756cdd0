"""A fake TorchServe, an edge in front of it, and an artifact for the static list."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_torchserve import FakeTorchServe
from running import Edge, Start, make_settings, wait_until


@pytest.fixture
def torchserve() -> Iterator[FakeTorchServe]:
    server = FakeTorchServe()
    yield server
    server.close()


@pytest.fixture
def start(torchserve: FakeTorchServe, tmp_path: Path, artifacts: dict[int, Path]) -> Iterator[Start]:
    """Start an edge with settings of one's own; it is warm, unless `warm=False`, and is stopped at the end."""
    running: list[Edge] = []

    def begin(users=None, warm: bool = True, **settings) -> Edge:
        home = settings.pop("home", tmp_path / f"edge-{len(running)}")
        chosen = make_settings(home, torchserve.url, **({"artifact": artifacts[1]} | settings))
        edge = Edge(chosen, users)
        running.append(edge)
        if warm:
            wait_until(lambda: edge.service.pipeline.fallback.popular is not None)
        return edge

    yield begin
    for edge in running:
        edge.close()


@pytest.fixture
def edge(start: Start) -> Edge:
    return start()
