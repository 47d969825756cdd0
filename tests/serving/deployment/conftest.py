"""Hosts and promoted versions for the tests of deployment."""

from __future__ import annotations

from pathlib import Path

import pytest

PROMOTED = {"verdict": "PROMOTE", "reason": "better by 5%"}


@pytest.fixture
def new_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A host that has seen no decision yet."""
    monkeypatch.setenv("TIDEGATE_STATE", str(tmp_path / "here"))


@pytest.fixture
def signed(two: tuple[str, str]) -> tuple[str, str]:
    """Two promoted versions: champion 2, previous 1."""
    from serving.deployment import promotion

    for version in two:
        promotion.promote("tiny", version, PROMOTED)
    return two
