"""What was deleted in MLflow or on disk: one line with the way out, and the way out works."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from mlflow import MlflowClient

from serving.deployment import promotion, registry, status
from serving.deployment.registry import PREVIOUS, RegistryError

pytestmark = pytest.mark.slow

PROMOTED = {"verdict": "PROMOTE", "reason": "better by 5%"}
REASON = "the champion was deleted"


@pytest.fixture
def served(two: tuple[str, str]) -> tuple[str, str]:
    """Version 2 is champion, version 1 is previous."""
    for version in two:
        promotion.promote("tiny", version, PROMOTED)
    return two


def test_without_its_champion_a_rollback_is_named_and_works(served) -> None:
    MlflowClient().delete_model_version("tiny", "2")

    says = "version 2, the champion, was deleted in MLflow; `python -m serving.deploy --rollback` makes 1 the champion"
    for command in (promotion.serving_target, promotion.restore_aliases):
        with pytest.raises(RegistryError, match=says):
            command("tiny")
    assert any(says in line for line in status.registry_lines("tiny"))
    assert promotion.roll_back_aliases("tiny").version.version == "1"
    assert promotion.serving_target("tiny").version.version == "1"
    assert not any("ATTENTION" in line and "champion" in line for line in status.registry_lines("tiny"))


def test_without_champion_and_previous_an_override_is_named_and_works(served, artifacts: dict[int, Path]) -> None:
    for version in served:
        MlflowClient().delete_model_version("tiny", version)

    with pytest.raises(
        RegistryError, match=r"was deleted in MLflow; `--override VERSION --reason \.\.\.` any version$"
    ):
        promotion.restore_aliases("tiny")
    new = registry.register_version("tiny", artifacts[2])
    assert promotion.override("tiny", new, REASON).version.version == new
    assert promotion.serving_target("tiny").version.version == new


def test_without_its_previous_version_the_champion_serves_and_aliases_can_be_restored(served) -> None:
    MlflowClient().delete_model_version("tiny", "1")
    MlflowClient().delete_registered_model_alias("tiny", "champion")

    promotion.restore_aliases("tiny")

    assert promotion.serving_target("tiny").version.version == "2"
    for command in (promotion.roll_back_aliases, lambda dataset: promotion.serving_target(dataset, PREVIOUS)):
        with pytest.raises(RegistryError, match="version 1, the previous, was deleted in MLflow, so there is nothing"):
            command("tiny")


def test_without_its_model_a_dataset_begins_anew_only_by_an_override(served, artifacts: dict[int, Path]) -> None:
    MlflowClient().delete_registered_model("tiny")

    says = r"decision 2, which this host has seen, is gone .*or its model was made anew; .*--override VERSION"
    new = registry.register_version("tiny", artifacts[1])
    for command in (promotion.restore_aliases, lambda dataset: promotion.promote(dataset, new, PROMOTED)):
        with pytest.raises(RegistryError, match=says):
            command("tiny")
    assert promotion.override("tiny", new, REASON).version.version == "1"
    promotion.promote("tiny", "1", PROMOTED)
    assert promotion.serving_target("tiny").report["verdict"] == "PROMOTE"


@pytest.mark.parametrize("lost", ["artifact-*", "gate-v2"])
def test_a_lost_artifact_or_report_names_the_way_out(lost: str, served, registry_folder: Path) -> None:
    run = MlflowClient().get_model_version("tiny", "2").run_id
    for folder in registry_folder.glob(f"mlartifacts/tiny/{run}/artifacts/{lost}"):
        shutil.rmtree(folder)

    with pytest.raises(RegistryError, match=r"restore it from a backup, or .*serving\.deploy --rollback"):
        promotion.serving_target("tiny")
    assert promotion.roll_back_aliases("tiny").version.version == "1"
