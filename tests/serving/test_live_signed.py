"""An alias changed by hand does not change what serves, and every deployment reports an override."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from own_registry import use_registry

from serving import deploy
from serving.deployment import registry
from serving.deployment.model_versions import client
from serving.deployment.registry import CHAMPION, RegistryError
from serving.settings import ServerSettings
from serving.torchserve.client import TorchServe

pytestmark = pytest.mark.slow

NAME = "tiny"
REASON = "the champion shows nothing at all"


@pytest.fixture(scope="module")
def deployed(
    live: ServerSettings, artifacts: dict[int, Path], tmp_path_factory: pytest.TempPathFactory, empty_registry: Path
) -> Iterator[ServerSettings]:
    """The second version serves, the first is kept loaded; both passed the gate."""
    with pytest.MonkeyPatch.context() as patch:
        use_registry(tmp_path_factory.mktemp("registry"), empty_registry, patch)
        for seed in (1, 2):
            registry.promote(NAME, registry.create_version(NAME, artifacts[seed]), {"verdict": "PROMOTE"})
        deploy.deploy(NAME, live)
        yield live


def serving(settings: ServerSettings) -> str:
    with TorchServe.from_settings(settings) as torchserve:
        return torchserve.predict(NAME, {"k": 1})["model_version"]


def test_an_alias_changed_by_hand_does_not_change_what_serves(deployed: ServerSettings) -> None:
    client().set_registered_model_alias(NAME, CHAMPION, "1")
    for _ in range(2):
        with pytest.raises(RegistryError, match="it says 1, the last signed move says 2"):
            deploy.deploy(NAME, deployed)
        assert serving(deployed) == "2.0"
    registry.restore(NAME)
    assert deploy.deploy(NAME, deployed) == "2.0"


def test_every_deployment_reports_an_override_until_a_promotion_ends_it(deployed: ServerSettings) -> None:
    registry.override(NAME, "1", REASON)
    for _ in range(2):
        lines: list[str] = []
        assert deploy.deploy(NAME, deployed, lines.append) == "1.0"
        assert [line for line in lines if line.startswith("OVERRIDE: ") and REASON in line]
    assert serving(deployed) == "1.0"
    registry.promote(NAME, "1", {"verdict": "PROMOTE"})
    lines = []
    assert deploy.deploy(NAME, deployed, lines.append) == "1.0"
    assert lines == []
