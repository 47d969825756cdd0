"""One small platform, from events to measured models, for all tests that need real products."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock
from made_board import SKILL, write_model
from made_rankings import made_cases, made_items, rank
from small_pipeline import BASELINES, run_stages


@pytest.fixture(scope="session")
def pipeline(tmp_path_factory: pytest.TempPathFactory, empty_registry: Path) -> Path:
    """A folder that the stages have run in: not to be changed (copy what you want to break).

    All test processes share one, because it takes half a minute: the first that needs it makes it.
    """
    own = tmp_path_factory.getbasetemp()
    folder = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "pipeline"
    with FileLock(f"{folder}.lock"):
        if not folder.exists():
            made = tmp_path_factory.mktemp("pipeline")
            shutil.copyfile(empty_registry, made / "mlflow.db")
            run_stages(made, (*BASELINES, "two_tower"))
            folder.symlink_to(made)  # only now, and not moved: its database names files by their full paths
    return folder.resolve()


@pytest.fixture(scope="session")
def evaluated(tmp_path_factory):
    """Two baselines, a learned model with two seeds, an oracle."""
    out = tmp_path_factory.mktemp("out")
    for folder in ("rankings", "metrics"):
        (out / folder).mkdir()
    rng = np.random.default_rng(0)
    items = made_items(rng, 60)
    cases = made_cases(rng, items, users=40, cases=300)
    for label, skill in SKILL.items():
        frames = [rank(rng, items, cases, skill) for _ in range(2 if label == "ours" else 1)]
        write_model(out, label, frames, items)
    return out


@pytest.fixture
def out(evaluated, tmp_path):
    """A copy that a test may change."""
    for folder in ("rankings", "metrics"):
        (tmp_path / folder).mkdir()
        for path in (evaluated / folder).iterdir():
            (tmp_path / folder / path.name).write_bytes(path.read_bytes())
    return tmp_path
