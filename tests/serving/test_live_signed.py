"""An alias changed by hand does not change what serves, and every deployment reports an override."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from own_registry import use_registry

from serving import deploy
from serving.deployment import promotion, reconcile, registry
from serving.deployment.registry import CHAMPION, RegistryError, registry_client
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
            promotion.promote(NAME, registry.register_version(NAME, artifacts[seed]), {"verdict": "PROMOTE"})
        reconcile.deploy(NAME, live)
        yield live


def serving(settings: ServerSettings) -> str:
    with TorchServe.from_settings(settings) as torchserve:
        return torchserve.predict(NAME, {"k": 1})["model_version"]


def test_an_decisiond_by_hand_does_not_change_what_serves(deployed: ServerSettings) -> None:
    registry_client().set_registered_model_alias(NAME, CHAMPION, "1")
    for _ in range(2):
        with pytest.raises(RegistryError, match="it names 1, the last signed decision names 2"):
            reconcile.deploy(NAME, deployed)
        assert serving(deployed) == "2.0"
    promotion.restore_aliases(NAME)
    assert reconcile.deploy(NAME, deployed).version == "2.0"


def test_every_deployment_reports_an_override_until_a_promotion_ends_it(deployed: ServerSettings) -> None:
    promotion.override(NAME, "1", REASON)
    for _ in range(2):
        lines: list[str] = []
        assert reconcile.deploy(NAME, deployed, lines.append).version == "1.0"
        assert [line for line in lines if line.startswith("OVERRIDE: ") and REASON in line]
    assert serving(deployed) == "1.0"
    promotion.promote(NAME, "1", {"verdict": "PROMOTE"})
    lines = []
    assert reconcile.deploy(NAME, deployed, lines.append).version == "1.0"
    assert lines == []


def test_a_rollback_ends_a_standing_override_and_stays_through_later_deployments(
    deployed: ServerSettings, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    monkeypatch.setattr(deploy.environment, "load", lambda: deployed)
    before = serving(deployed)
    other = "2" if before.startswith("1.") else "1"
    assert deploy.main(["--dataset", NAME, "--override", other, "--reason", REASON]) == 0
    assert serving(deployed).startswith(f"{other}.")

    assert deploy.main(["--dataset", NAME, "--rollback"]) == 0
    assert f"to {before} in " in capsys.readouterr().out
    for _ in range(2):
        assert serving(deployed) == before
        assert deploy.main(["--dataset", NAME]) == 0
    assert promotion.standing_override(NAME) is None
    assert registry.version_number(NAME, CHAMPION) == before.partition(".")[0]
