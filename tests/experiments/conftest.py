"""One small platform, from events to measured models, for all tests that need real products."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # for small_pipeline, which several files here use

from small_pipeline import COUNTED, run_stages


@pytest.fixture(scope="session")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that the stages have run in: not to be changed (copy what you want to break)."""
    return run_stages(tmp_path_factory.mktemp("pipeline"), (*COUNTED, "two_tower"))
