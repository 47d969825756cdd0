"""A registry of a test's own, with MLflow's tables in it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest


def use_registry(folder: Path, empty_registry: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let everything in this process track and register in a folder."""
    shutil.copyfile(empty_registry, folder / "mlflow.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/mlflow.db")
