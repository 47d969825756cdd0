"""wrk asks all the while: no deployment, switch or rollback costs a request."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from own_registry import use_registry

from serving.artifact import archive
from serving.deployment import promotion, reconcile, registry
from serving.settings import ServerSettings
from serving.torchserve import server
from serving.torchserve.client import TorchServe, prediction_path

pytestmark = pytest.mark.slow

NAME = "tiny"
PROMOTED = {"verdict": "PROMOTE"}
SCRIPT = Path(__file__).with_name("versions.lua")
SOON = 0.5  # seconds of load before, between and after changes


@pytest.fixture(scope="module")
def deployed(
    settings: ServerSettings, artifacts: dict[int, Path], tmp_path_factory: pytest.TempPathFactory, empty_registry: Path
) -> Iterator[ServerSettings]:
    """A first version with two workers, so that a version that is replaced loses one."""
    if shutil.which("wrk") is None:
        pytest.skip("there is no wrk on the path (Debian: apt-get install wrk)")
    two = settings.model_copy(update={"workers": 2})
    with pytest.MonkeyPatch.context() as patch:
        use_registry(tmp_path_factory.mktemp("registry"), empty_registry, patch)
        promotion.promote(NAME, registry.register_version(NAME, artifacts[1]), PROMOTED)
        try:
            assert reconcile.deploy(NAME, two).version == "1.0"
            yield two
        finally:
            server.stop(two)


@contextmanager
def load(live: ServerSettings) -> Iterator[dict]:
    """wrk asks for the default version during the block; what it saw is told after it."""
    token = json.loads(live.key_file.read_text(encoding="utf-8"))["inference"]["key"]
    command = ["wrk", "--threads", "1", "--connections", "8", "--duration", "600s", "--timeout", "10s"]
    command += ["--header", f"Authorization: Bearer {token}", "--script", str(SCRIPT)]
    url = live.inference_url + prediction_path(NAME)
    told: dict = {}
    with subprocess.Popen([*command, url], stdout=subprocess.PIPE, encoding="utf-8") as wrk:
        try:
            time.sleep(SOON)
            yield told
            time.sleep(SOON)
        finally:
            wrk.send_signal(signal.SIGINT)  # it ends, and tells
            told |= json.loads(wrk.communicate(timeout=60)[0].splitlines()[-1])


def unharmed(told: dict) -> bool:
    return told["answered"] > 100 and (told["refused"], told["broken"], told["late"]) == (0, 0, 0)


def test_a_build_that_is_replaced_and_unloaded_at_once_costs_no_request(
    deployed: ServerSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive, "ENTRY_SOURCE", archive.ENTRY_SOURCE + "\n# newer\n")
    with load(deployed) as told:
        assert reconcile.deploy(NAME, deployed).version == "1.1"
    with TorchServe.from_settings(deployed) as client:
        assert set(client.describe(NAME)) == {"1.1"}
    assert unharmed(told), told
    (seen,) = (order.split() for order in told["seen"])
    assert (seen[0], set(seen), seen[-1]) == ("1.0", {"1.0", "1.1"}, "1.1")


def test_a_new_version_and_the_way_back_cost_no_request(deployed: ServerSettings, artifacts: dict[int, Path]) -> None:
    old = reconcile.deploy(NAME, deployed).version
    with load(deployed) as told:
        promotion.promote(NAME, registry.register_version(NAME, artifacts[2]), PROMOTED)
        assert reconcile.deploy(NAME, deployed).version == "2.0"
        time.sleep(SOON)
        promotion.roll_back_aliases(NAME)
        assert reconcile.deploy(NAME, deployed).version == old
    assert unharmed(told), told
    (seen,) = (order.split() for order in told["seen"])
    assert (seen[0], set(seen), seen[-1]) == (old, {old, "2.0"}, old)
