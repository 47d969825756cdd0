"""Feast for real: the contract of every store holds, and what the verb wrote is read through its feature server."""

from __future__ import annotations

import asyncio
import json
import os
import re
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from config import params
from data.consent import PERSONALIZATION, decide
from features.feast_server import ServerEngine
from features.online.connect import StoreSettings, connect
from features.online.errors import StoreError, StoreUnavailable
from features.online.store import Policy, ReadingState
from serving.edge.consent import OnlineProfileReader

ROOT = Path(__file__).resolve().parents[3]
CHOSEN = params.load(ROOT / "params.yaml")
NAME = CHOSEN.dataset
PLAYED = {"event_type": (CHOSEN.ingest.event_types or ["play"])[0], "value": CHOSEN.ingest.min_value}
LINES = [
    {"user_id": "ann", "event_time": "2026-01-01T20:00:00Z", "consent": {"personalization": False}},
    {"user_id": "bob", "event_time": "2026-01-01T21:00:00Z", "item_id": "m2", **PLAYED},
    {"user_id": "bob", "event_time": "2026-01-01T20:00:00Z", "item_id": "m1", **PLAYED},
    {"user_id": "bob", "event_time": "2026-01-01T20:00:00Z", "traits": {"plan": "free"}},
]
CONFIGURE = """
import sys
from features.feast_sdk import open_feast
from features.online.connect import StoreSettings, connect
from features.online.store import Policy
connect(sys.argv[2], StoreSettings(sys.argv[1]), True, open_feast).configure(Policy(50, None))
"""

pytestmark = pytest.mark.slow


@contextmanager
def serving(python: Path, repository: Path, verb: str = "serve") -> Iterator[str]:
    """A feature server (or its UI) on a free port, while it is needed; its URL."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [python.with_name("feast"), "-c", repository, verb, "--host", "127.0.0.1", "--port", str(port)]
    # gunicorn, which runs it, leaves a socket in the home folder.
    with subprocess.Popen(command, env=os.environ | {"HOME": str(repository)}) as process:
        try:
            _wait(f"http://127.0.0.1:{port}/{'health' if verb == 'serve' else ''}", process)
            yield f"feast+http://127.0.0.1:{port}"
        finally:
            process.terminate()


def _wait(url: str, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 90  # it imports for many seconds
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if httpx.get(url, trust_env=False).status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.2)
    pytest.fail(f"{url} did not answer")


def test_it_keeps_the_contract_of_every_store(feast_python: Path) -> None:
    command = [feast_python, "-m", "pytest", "tests/features/online", "-k", "feast", "-q"]
    done = subprocess.run([*command, "-p", "no:cacheprovider"], cwd=ROOT, capture_output=True, encoding="utf-8")

    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout


def test_materialized_profiles_are_read_through_the_feature_server(
    feast_python: Path, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    subprocess.run([feast_python, "-c", CONFIGURE, f"feast://{repository}", NAME], cwd=ROOT, check=True)
    subprocess.run(
        [feast_python, "-m", "features.materialize", "--events", "-"],
        cwd=ROOT, env=os.environ | {"TIDEGATE_STORE": f"feast://{repository}"}, check=True, encoding="utf-8",
        input="\n".join(map(json.dumps, LINES)),
    )  # fmt: skip
    with serving(feast_python, repository) as url:
        store = connect(NAME, StoreSettings(url, read_ms=5000), open_feast=ServerEngine)
        readings = store.read(["bob", "nobody", "ann"], [time.time_ns() // 1000] * 3)
        assert [one.state for one in readings] == [ReadingState.FOUND, ReadingState.UNKNOWN, ReadingState.UNKNOWN]
        decisions = [decide(one.consent, PERSONALIZATION, time.time_ns() // 1000) for one in readings]
        assert decisions == ["not_asked", "not_asked", "denied"]
        assert [event.item_id for event in readings[0].profile.events] == ["m1", "m2"]
        assert store.engine.location == url
        with pytest.raises(StoreError, match="is read only; write through feast:///FOLDER"):
            store.configure(Policy(5, None))

        monkeypatch.setenv("TIDEGATE_STORE", url)
        monkeypatch.setenv("TIDEGATE_STORE_READ_MS", "5000")
        ann, bob = (asyncio.run(OnlineProfileReader.from_environment(NAME).read(user)) for user in ("ann", "bob"))
        assert (ann.consent, bob.consent) == ("denied", "not_asked")
        assert [event["item_id"] for event in bob.features["history"]] == ["m1", "m2"]
        assert bob.features["context"] == {"plan": "free"}
    with pytest.raises(StoreUnavailable, match=re.escape(url)):
        store.read(["bob"], [time.time_ns() // 1000])


def test_its_ui_shows_the_views(feast_python: Path, repository: Path) -> None:
    with serving(feast_python, repository, "ui") as url:
        asked = f"{url.removeprefix('feast+')}/api/v1/feature_views?project=tidegate"
        views = httpx.get(asked, trust_env=False).json()["featureViews"]

    shown = {view["spec"]["name"]: [one["name"] for one in view["spec"]["features"]] for view in views}
    assert shown.keys() == {"profile", "consent", "shared"}
    assert set(shown["profile"]) == set(shown["consent"]) == {"record", "erased"}
