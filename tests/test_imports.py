"""The import contracts of pyproject.toml hold, and would notice if they did not."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("config", "web", "data", "features", "training", "serving", "experiments")


def lint_imports(folder: Path) -> subprocess.CompletedProcess[str]:
    """Check the copy of the project in `folder` by the contracts that lie there."""
    program = "from importlinter.cli import lint_imports; exit(lint_imports(no_cache=True, no_logo=True))"
    return subprocess.run([sys.executable, "-c", program], cwd=folder, capture_output=True, encoding="utf-8")


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """The project's code and contracts, copied to where a test may break them."""
    for name in FOLDERS:
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def test_contracts_hold(clone: Path) -> None:
    result = lint_imports(clone)

    assert result.returncode == 0, result.stdout + result.stderr
    assert " 0 broken" in result.stdout


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("data/columns.py", "import experiments"),
        ("config/params.py", "import web"),
        ("web/keys.py", "import data"),
        ("web/errors.py", "def later():\n    import pandas"),
        ("features/sequences.py", "import training.models"),
        ("training/models/base.py", "import serving"),
        ("serving/worker/recommender.py", "import experiments"),
        ("features/encode.py", "import pandas"),
        ("features/online/profile.py", "import features.materialize"),  # which loads pandas
        ("features/segment_rules.py", "import features.segment_membership"),  # which loads pandas
        ("training/models/base.py", "import pytorch_lightning"),
        ("serving/worker/recommender.py", "import features.featurize"),  # which loads pandas
        ("serving/edge/recommend.py", "import serving.worker.recommender"),  # which loads torch
        ("features/online/connect.py", "def later():\n    import features.feast_sdk"),
        ("serving/edge/consent.py", "import features.feast_sdk"),  # which loads Feast and pandas
        ("serving/worker/handler.py", "def later():\n    import mlflow"),  # hidden in a function
        ("data/columns.py", "import data.ingest"),
        ("experiments/evaluation/cases.py", "import experiments.gating.verdict"),  # which weighs what it measures
    ],
)
def test_contracts_catch_a_planted_violation(clone: Path, file: str, line: str) -> None:
    with (clone / file).open("a", encoding="utf-8") as code:
        code.write(f"\n{line}\n")

    result = lint_imports(clone)

    assert result.returncode == 1
    assert "BROKEN" in result.stdout
