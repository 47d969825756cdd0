"""An empty store of each kind."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from data.columns import DAY
from features.feast_sdk import open_feast
from features.online.connect import StoreSettings, connect
from features.online.store import Policy, ProfileStore

ROOT = Path(__file__).resolve().parents[3]
# Feast's are added where it is installed; `tests/features/feast` installs it beside us and runs them.
FEAST = ("feast-sqlite", "feast-redis") if find_spec("feast") else ()
KINDS = ["sqlite", "redis", *(pytest.param(kind, marks=pytest.mark.slow) for kind in FEAST)]


@pytest.fixture(scope="session")
def feast_repositories(tmp_path_factory: pytest.TempPathFactory, redis_server) -> dict[str, Path]:
    """Kind -> a copy of our feature repository with that online store, applied."""
    made = {}
    for kind in ("feast-sqlite", "feast-redis"):
        made[kind] = tmp_path_factory.mktemp(kind) / "repository"
        shutil.copytree(ROOT / "features" / "feast_repo", made[kind])
        settings = made[kind] / "feature_store.yaml"
        settings.write_text(settings.read_text(encoding="utf-8").replace("../../state/", ""), encoding="utf-8")
        if kind == "feast-redis":
            ours, theirs = (
                "type: sqlite\n  path: feast_online.db",
                f"type: redis\n  connection_string: 127.0.0.1:{redis_server.port}",
            )
            assert ours in settings.read_text(encoding="utf-8")
            settings.write_text(settings.read_text(encoding="utf-8").replace(ours, theirs), encoding="utf-8")
        subprocess.run([Path(sys.executable).with_name("feast"), "-c", made[kind], "apply"], check=True)
    return made


@pytest.fixture(params=KINDS)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where a store of each kind may be."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/store.db"
    if request.param == "redis":
        return request.getfixturevalue("redis_server").url
    return f"feast://{request.getfixturevalue('feast_repositories')[request.param]}"


@pytest.fixture
def namespace(tmp_path: Path) -> str:
    return str(tmp_path)


@pytest.fixture
def reopen(url: str, namespace: str) -> Iterator[Callable[[], ProfileStore]]:
    """Another connection to the same store."""
    opened: list[ProfileStore] = []

    def reopen() -> ProfileStore:
        opened.append(connect(namespace, StoreSettings(url), writing=True, open_feast=open_feast))
        return opened[-1]

    yield reopen
    for store in opened:
        store.close()


@pytest.fixture
def store(reopen: Callable[[], ProfileStore]) -> ProfileStore:
    """An empty store that keeps 50 events of each user for 30 days."""
    made = reopen()
    made.configure(Policy(max_events=50, ttl_us=30 * DAY))
    return made
