"""An interpreter that has Feast, and a feature repository of a test's own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from importlib.metadata import distributions
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
HOME = ROOT / "out" / "features" / "feast-env"
FEAST = "feast[grpcio]==0.67.*"


@pytest.fixture(scope="session")
def feast_python() -> Path:
    """This one where it has Feast; else that of an environment that lies over ours, so that ours stays as it is."""
    if find_spec("feast"):
        return Path(sys.executable)
    stamp = HOME / "installed.txt"
    pins = "".join(sorted(f"{each.name}=={each.version}\n" for each in distributions()))
    if not stamp.exists() or stamp.read_text(encoding="utf-8") != pins:
        if not os.environ.get("TIDEGATE_TEST_FEAST"):
            pytest.skip("Feast is an extra; with TIDEGATE_TEST_FEAST=1 it is installed beside us (100 MB) and tested")
        _install(pins)
        stamp.write_text(pins, encoding="utf-8")
    return HOME / "bin" / "python"


def _install(pins: str) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--clear", HOME], check=True)
    python = HOME / "bin" / "python"
    paths = {"base": str(HOME), "platbase": str(HOME)}
    (Path(sysconfig.get_path("purelib", vars=paths)) / "beneath.pth").write_text(
        sysconfig.get_path("purelib"), encoding="utf-8"
    )
    constraints = HOME / "constraints.txt"
    constraints.write_text(pins, encoding="utf-8")
    quiet = ["--quiet", "--disable-pip-version-check"]
    subprocess.run([python, "-m", "pip", "install", *quiet, "-c", constraints, FEAST], check=True)


@pytest.fixture
def repository(feast_python: Path, tmp_path: Path) -> Path:
    """A copy of ours, applied, with a SQLite file of its own."""
    made = tmp_path / "repository"
    shutil.copytree(ROOT / "features" / "feast_repo", made)
    settings = made / "feature_store.yaml"
    settings.write_text(settings.read_text(encoding="utf-8").replace("../../state/", ""), encoding="utf-8")
    subprocess.run([feast_python.with_name("feast"), "-c", made, "apply"], check=True)
    return made
