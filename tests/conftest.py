"""Fixtures for all tests: real data, an empty registry, commands as processes. Also limits threads and isolates settings."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import signing

ROOT = Path(__file__).resolve().parent.parent

# Set before torch, numpy or MLflow are imported: they read these once. Child processes inherit them. One thread each,
# because several test processes share the cores: threads that wait for one another would spin.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MKL_NUM_THREADS", "1")
os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
os.environ["DO_NOT_TRACK"] = "true"
os.environ["DVC_NO_ANALYTICS"] = "true"
os.environ["TIDEGATE_GATE_KEY"] = signing.pem(signing.GATE_SEED)  # tests neither create nor use this clone's keys
os.environ["TIDEGATE_OPERATOR_KEY"] = signing.pem(signing.OPERATOR_SEED)
for name in ("GATE_KEY_FILE", "OPERATOR_KEY_FILE", "TRUSTED_KEYS", "TRUSTED_KEYS_FILE"):
    os.environ.pop(f"TIDEGATE_{name}", None)
os.environ["TIDEGATE_STATE"] = "out/state"  # relative to a test's working folder
os.environ.pop("MLFLOW_TRACKING_URI", None)  # a test must never write into a real tracking server

Command = Callable[..., "subprocess.CompletedProcess[str]"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run files with slow tests first, so that no process is left with a long file at the end."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(scope="session")
def root() -> Path:
    """The project's root folder."""
    return ROOT


@pytest.fixture(scope="session")
def empty_registry(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with MLflow's tables in it: creating them takes seconds, copying them does not."""
    from mlflow import MlflowClient

    path = tmp_path_factory.mktemp("registry") / "mlflow.db"
    MlflowClient(f"sqlite:///{path}").search_registered_models()
    return path


@pytest.fixture(autouse=True)
def _own_logging() -> Iterator[None]:
    """Undoes config.redact.install, which each command and worker calls, after a test that runs one in this process."""
    before = logging.getLogRecordFactory(), sys.excepthook, threading.excepthook
    yield
    logging.setLogRecordFactory(before[0])
    sys.excepthook, threading.excepthook = before[1:]


@pytest.fixture
def tracked(tmp_path: Path, empty_registry: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder of a test, with a tracking database of its own."""
    shutil.copyfile(empty_registry, tmp_path / "mlflow.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of the real datasets (ml-100k, ml-1m-likes, ...); skips the test if there is none."""
    folder = Path(os.environ.get("TIDEGATE_REAL_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}; TIDEGATE_REAL_DATA sets another folder")
    return folder


@pytest.fixture(scope="session")
def run_command() -> Command:
    """Run `python -m <module> <arguments>` in a process of its own and return it when it has ended, with its output as text.

    Keywords: cwd (default: the project's root), timeout in seconds (default: 120), env (added to that of this
    process). The project's modules are importable from any cwd.
    """

    def run(
        module: str,
        *arguments: object,
        cwd: Path = ROOT,
        timeout: float = 120,
        env: dict[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", module, *map(str, arguments)],
            cwd=cwd,
            env={**os.environ, "PYTHONPATH": str(ROOT), **(env or {})},
            capture_output=True,
            encoding="utf-8",
            timeout=timeout,
        )

    return run
