"""An alias changes only with the gate report that justifies it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from serving.deployment import promotion, registry
from serving.deployment.registry import CHALLENGER, CHAMPION, PREVIOUS, RegistryError, registry_client

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("registry_folder")]

PROMOTED = {"verdict": "PROMOTE", "reason": "better by 5%"}


def report_file(registry_folder: Path, version: str) -> Path:
    (found,) = registry_folder.rglob(f"gate-v{version}/*/report.json")
    return found


def test_nothing_serves_before_a_promotion(two) -> None:
    with pytest.raises(RegistryError, match="tiny has no champion"):
        promotion.serving_target("tiny")
    with pytest.raises(RegistryError, match="other has no champion"):
        promotion.serving_target("other")


def test_a_promoted_version_serves_with_its_report(two) -> None:
    promotion.promote("tiny", two[0], PROMOTED, html="<p>better</p>")
    target = promotion.serving_target("tiny")
    assert target.version.version == two[0]
    assert target.report == PROMOTED | {
        "dataset": "tiny",
        "version": two[0],
        "artifact": target.version.artifact,
    }


def test_a_promotion_changes_champion_previous_and_challenger(two) -> None:
    promotion.promote("tiny", two[0], PROMOTED)
    promotion.set_challenger("tiny", two[1])
    assert registry.version_by_alias("tiny", CHALLENGER).version == two[1]
    promotion.promote("tiny", two[1], PROMOTED)
    assert registry.version_by_alias("tiny", CHAMPION).version == two[1]
    assert registry.version_by_alias("tiny", PREVIOUS).version == two[0]
    assert registry.version_by_alias("tiny", CHALLENGER) is None
    promotion.promote("tiny", two[1], PROMOTED)  # repeated, it changes nothing
    assert registry.version_by_alias("tiny", PREVIOUS).version == two[0]


@pytest.mark.parametrize("verdict", ["HOLD", "REJECT", "INSUFFICIENT_DATA", None])
def test_no_other_verdict_changes_an_alias(two, verdict: str | None) -> None:
    with pytest.raises(RegistryError, match=f"the verdict is {verdict}"):
        promotion.promote("tiny", two[0], {"verdict": verdict})
    assert registry.version_by_alias("tiny", CHAMPION) is None


@pytest.mark.parametrize("wrong", [{"version": "2"}, {"artifact": "0000"}, {"dataset": "other"}])
def test_the_report_of_another_version_promotes_nothing(two, wrong: dict) -> None:
    with pytest.raises(RegistryError, match="the report is of"):
        promotion.promote("tiny", two[0], PROMOTED | wrong)
    assert registry.version_by_alias("tiny", CHAMPION) is None


def test_a_lost_report_is_refused(two, registry_folder: Path) -> None:
    promotion.promote("tiny", two[0], PROMOTED)
    report_file(registry_folder, two[0]).unlink()
    with pytest.raises(RegistryError, match=r"report\.json cannot be read"):
        promotion.serving_target("tiny")


def test_an_artifact_that_was_exchanged_after_the_gate_is_refused(two, artifacts, registry_folder: Path) -> None:
    promotion.promote("tiny", two[0], PROMOTED)
    digest = promotion.serving_target("tiny").version.artifact
    (stored,) = registry_folder.rglob(f"artifact-{digest[:12]}")
    shutil.rmtree(stored)
    shutil.copytree(artifacts[2], stored)  # whole and valid, but not what the gate saw
    with pytest.raises(RegistryError, match="its gate report is of another artifact"):
        promotion.serving_target("tiny")


def test_a_rollback_swaps_champion_and_previous(two) -> None:
    promotion.promote("tiny", two[0], PROMOTED)
    promotion.promote("tiny", two[1], PROMOTED)
    assert promotion.roll_back_aliases("tiny").version.version == two[0]
    assert promotion.serving_target("tiny").version.version == two[0]
    assert registry.version_by_alias("tiny", PREVIOUS).version == two[1]
    assert promotion.roll_back_aliases("tiny").version.version == two[1]


def test_a_rollback_needs_a_justified_previous_version(two) -> None:
    promotion.promote("tiny", two[0], PROMOTED)
    with pytest.raises(RegistryError, match="tiny has no previous"):
        promotion.roll_back_aliases("tiny")
    registry_client().set_registered_model_alias("tiny", PREVIOUS, two[1])
    with pytest.raises(
        RegistryError, match="previous was changed by hand: it names 2, the last signed decision names nothing"
    ):
        promotion.roll_back_aliases("tiny")
    assert promotion.serving_target("tiny").version.version == two[0]


def test_a_report_is_stored_as_plain_json(two, registry_folder: Path) -> None:
    promotion.promote("tiny", two[0], PROMOTED, html="<p>better</p>")
    path = report_file(registry_folder, two[0])
    assert json.loads(path.read_text(encoding="utf-8"))["reason"] == "better by 5%"
    assert path.with_suffix(".html").read_text(encoding="utf-8") == "<p>better</p>"


def test_a_version_shows_its_verdict_promote_or_not(two) -> None:
    promotion.promote("tiny", two[0], PROMOTED)
    promotion.record_verdict("tiny", two[1], {"verdict": "HOLD", "reason": "too close to call"})

    shown = {version: registry_client().get_model_version("tiny", version) for version in two}
    assert [shown[version].tags["gate_verdict"] for version in two] == ["PROMOTE", "HOLD"]
    assert shown[two[0]].description == "item_knn: PROMOTE: better by 5%"
    assert shown[two[1]].description == "a model: HOLD: too close to call"
    assert registry.version_by_alias("tiny", CHAMPION).version == two[0]
