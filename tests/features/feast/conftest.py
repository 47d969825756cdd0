"""An interpreter that has Feast, and a feature repository of a test's own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
HOME = ROOT / "out" / "features" / "feast-env"
WANTED = ["-c", str(ROOT / "requirements.lock"), "feast[grpcio]==0.67.*"]


@pytest.fixture(scope="session")
def feast_python() -> Path:
    """This one where it has Feast; else that of an environment that lies over ours, so that ours stays as it is."""
    if find_spec("feast"):
        return Path(sys.executable)
    stamp = HOME / "installed.json"
    if not stamp.exists() or json.loads(stamp.read_text(encoding="utf-8")) != WANTED:
        if not os.environ.get("TIDEGATE_TEST_FEAST"):
            pytest.skip("Feast is an extra; with TIDEGATE_TEST_FEAST=1 it is installed beside us (100 MB) and tested")
        _install()
        stamp.write_text(json.dumps(WANTED), encoding="utf-8")
    return HOME / "bin" / "python"


def _install() -> None:
    subprocess.run([sys.executable, "-m", "venv", "--clear", HOME], check=True)
    python = HOME / "bin" / "python"
    paths = {"base": str(HOME), "platbase": str(HOME)}
    (Path(sysconfig.get_path("purelib", vars=paths)) / "beneath.pth").write_text(
        sysconfig.get_path("purelib"), encoding="utf-8"
    )
    subprocess.run([python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *WANTED], check=True)


@pytest.fixture
def repository(feast_python: Path, tmp_path: Path) -> Path:
    """A copy of ours, applied, with a SQLite file of its own."""
    made = tmp_path / "repository"
    shutil.copytree(ROOT / "features" / "feast_repo", made)
    settings = made / "feature_store.yaml"
    settings.write_text(settings.read_text(encoding="utf-8").replace("../../state/", ""), encoding="utf-8")
    subprocess.run([feast_python.with_name("feast"), "-c", made, "apply"], check=True)
    return made
