"""A running event collector."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from collector_app import RunningCollector


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., RunningCollector]]:
    """Start a collector with settings of one's own; each is stopped at the end."""
    running: list[RunningCollector] = []

    def begin(**settings) -> RunningCollector:
        running.append(RunningCollector(**({"home": tmp_path / f"collect-{len(running)}"} | settings)))
        return running[-1]

    yield begin
    for collector in running:
        collector.close()


@pytest.fixture
def collector(start: Callable[..., RunningCollector]) -> RunningCollector:
    return start()
