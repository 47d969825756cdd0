"""Clients ask all the time: no deployment, switch or rollback costs a request or holds a connection up."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from own_registry import use_registry
from steady_load import CONNECTIONS, steady_load

from serving.artifact import archive
from serving.deployment import promotion, reconcile, registry
from serving.settings import ServerSettings
from serving.torchserve import server
from serving.torchserve.client import TorchServe

pytestmark = pytest.mark.slow

NAME = "tiny"
PROMOTED = {"verdict": "PROMOTE"}


@pytest.fixture(scope="module")
def deployed(
    settings: ServerSettings, artifacts: dict[int, Path], tmp_path_factory: pytest.TempPathFactory, empty_registry: Path
) -> Iterator[ServerSettings]:
    """A first version with two workers, so that a version that is replaced loses one."""
    two = settings.model_copy(update={"workers": 2})
    with pytest.MonkeyPatch.context() as patch:
        use_registry(tmp_path_factory.mktemp("registry"), empty_registry, patch)
        promotion.promote(NAME, registry.register_version(NAME, artifacts[1]), PROMOTED)
        try:
            assert reconcile.deploy(NAME, two).version == "1.0"
            yield two
        finally:
            server.stop(two)


def test_a_build_that_is_replaced_and_unloaded_at_once_costs_no_request(
    deployed: ServerSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive, "ENTRY_SOURCE", archive.ENTRY_SOURCE + "\n# newer\n")
    answered: dict[str, list[int]] = {}  # by connection, before a line of progress
    with steady_load(deployed, NAME) as load:
        done = reconcile.deploy(NAME, deployed, lambda line: answered.setdefault(line.split(";")[0], load.counts()))
    assert done.version == "1.1"
    with TorchServe.from_settings(deployed) as client:
        assert set(client.describe(NAME)) == {"1.1"}
    assert load.failures() == []
    assert [connection.changes for connection in load.connections] == [["1.0", "1.1"]] * CONNECTIONS
    # Between these lines the second worker started, which takes hundreds of requests' time. A connection that waits for
    # it is answered once or twice.
    spans = zip(answered["loaded tiny 1.1"], answered["tiny 1.1 is the default version"], strict=True)
    assert min(after - before for before, after in spans) >= 5, answered


SLOW = """
    def handle(self, *arguments):
        import time

        time.sleep(0.5)
        return super().handle(*arguments)
"""


def test_requests_in_a_slow_worker_are_answered_before_its_version_is_unloaded(
    deployed: ServerSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(archive, "ENTRY_SOURCE", archive.ENTRY_SOURCE + SLOW)
        slow = reconcile.deploy(NAME, deployed).version
    with steady_load(deployed, NAME) as load:
        fast = reconcile.deploy(NAME, deployed).version
    assert load.failures() == []
    assert [connection.changes for connection in load.connections] == [[slow, fast]] * CONNECTIONS


def test_a_new_version_and_the_way_back_cost_no_request(deployed: ServerSettings, artifacts: dict[int, Path]) -> None:
    old = reconcile.deploy(NAME, deployed).version
    with steady_load(deployed, NAME) as load:
        promotion.promote(NAME, registry.register_version(NAME, artifacts[2]), PROMOTED)
        assert reconcile.deploy(NAME, deployed).version == "2.0"
        load.wait_for_answers()
        promotion.roll_back_aliases(NAME)
        assert reconcile.deploy(NAME, deployed).version == old
    assert load.failures() == []
    assert [connection.changes for connection in load.connections] == [[old, "2.0", old]] * CONNECTIONS
