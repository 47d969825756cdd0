"""The committed tracker.js is what its sources give, small, and without a dependency."""

from __future__ import annotations

import gzip
import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from tracked_site import DOCUMENT, TRACKER

MAX_BYTES = 6 * 1024  # gzipped


@pytest.fixture(scope="module")
def npm() -> str:
    found = shutil.which("npm")
    if found is None:
        pytest.skip("npm is not installed")
    if not (TRACKER / "node_modules" / ".bin" / "esbuild").exists():
        pytest.skip("the packages that build the tracker are not installed; `make tracker` installs them")
    return found


def test_tracker_js_is_what_its_sources_give(npm: str, tmp_path: Path) -> None:
    built = tmp_path / "tracker.js"
    subprocess.run([npm, "run", "--silent", "build"], cwd=TRACKER, env=os.environ | {"OUT": str(built)}, check=True)

    assert built.read_bytes() == (TRACKER / "tracker.js").read_bytes(), "run `make tracker`"


def test_the_sources_have_no_type_error(npm: str) -> None:
    done = subprocess.run([npm, "run", "--silent", "check"], cwd=TRACKER, capture_output=True, encoding="utf-8")

    assert done.returncode == 0, done.stdout


def test_tracker_js_has_at_most_six_kilobytes_and_the_documented_size() -> None:
    size = len(gzip.compress((TRACKER / "tracker.js").read_bytes(), 9))
    documented = re.search(r"\((\d\.\d) KB gzipped", DOCUMENT)

    assert size <= MAX_BYTES
    assert documented is not None
    assert documented[1] == f"{size / 1024:.1f}"


def test_the_tracker_has_no_dependency_and_its_tools_come_from_the_public_registry() -> None:
    package = json.loads((TRACKER / "package.json").read_text(encoding="utf-8"))
    lock = (TRACKER / "package-lock.json").read_text(encoding="utf-8")
    packages = {name: entry for name, entry in json.loads(lock)["packages"].items() if name}

    assert "dependencies" not in package
    assert all(re.fullmatch(r"[\d.]+", version) for version in package["devDependencies"].values())
    assert packages
    assert all(entry["dev"] and entry["integrity"].startswith("sha512-") for entry in packages.values())
    assert set(re.findall(r'"resolved": "https?://([^/]+)/', lock)) <= {"registry.npmjs.org"}
