"""An alias moves only with the gate report that justifies it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from serving.deployment import registry
from serving.deployment.model_versions import client
from serving.deployment.registry import CHALLENGER, CHAMPION, PREVIOUS, RegistryError

pytestmark = pytest.mark.usefixtures("registry_folder")

PROMOTED = {"verdict": "PROMOTE", "reason": "better by 5%"}


def report_file(registry_folder: Path, version: str) -> Path:
    (found,) = registry_folder.rglob(f"gate-v{version}/*/report.json")
    return found


def test_an_artifact_comes_back_as_it_was_registered(two, artifacts, tmp_path: Path) -> None:
    into = tmp_path / "back"
    into.mkdir()
    folder = registry.download("tiny", two[1], into)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {
        path.name: path.read_bytes() for path in artifacts[2].iterdir()
    }


def test_an_artifact_is_registered_once(two, artifacts) -> None:
    assert registry.create_version("tiny", artifacts[1]) == two[0]
    assert [version.version for version in registry.registered("tiny")] == ["1", "2"]


def test_a_version_belongs_to_the_run_that_made_it(artifacts) -> None:
    mlflow = client()
    run = mlflow.create_run(mlflow.create_experiment("elsewhere")).info.run_id
    version = registry.create_version("tiny", artifacts[1], run)
    assert registry.find("tiny", version).run_id == run
    with pytest.raises(RegistryError, match="the run 0123 cannot be read"):
        registry.create_version("tiny", artifacts[2], "0123")


def test_artifacts_lie_beside_the_database(two, registry_folder: Path) -> None:
    assert len(list((registry_folder / "mlartifacts").rglob("weights.safetensors"))) == 2


def test_nothing_serves_before_a_promotion(two) -> None:
    with pytest.raises(RegistryError, match="tiny has no champion"):
        registry.serving_target("tiny")
    with pytest.raises(RegistryError, match="other has no champion"):
        registry.serving_target("other")


def test_a_promoted_version_serves_with_its_report(two) -> None:
    registry.promote("tiny", two[0], PROMOTED, html="<p>better</p>")
    target = registry.serving_target("tiny")
    assert target.version.version == two[0]
    assert target.report == PROMOTED | {
        "dataset": "tiny",
        "version": two[0],
        "artifact": target.version.artifact,
    }


def test_promotion_moves_the_aliases_along(two) -> None:
    registry.promote("tiny", two[0], PROMOTED)
    registry.challenge("tiny", two[1])
    assert registry.aliased("tiny", CHALLENGER).version == two[1]
    registry.promote("tiny", two[1], PROMOTED)
    assert registry.aliased("tiny", CHAMPION).version == two[1]
    assert registry.aliased("tiny", PREVIOUS).version == two[0]
    assert registry.aliased("tiny", CHALLENGER) is None
    registry.promote("tiny", two[1], PROMOTED)  # repeated, it changes nothing
    assert registry.aliased("tiny", PREVIOUS).version == two[0]


@pytest.mark.parametrize("verdict", ["HOLD", "REJECT", "INSUFFICIENT_DATA", None])
def test_no_other_verdict_moves_an_alias(two, verdict: str | None) -> None:
    with pytest.raises(RegistryError, match=f"the verdict is {verdict}"):
        registry.promote("tiny", two[0], {"verdict": verdict})
    assert registry.aliased("tiny", CHAMPION) is None


@pytest.mark.parametrize("wrong", [{"version": "2"}, {"artifact": "0000"}, {"dataset": "other"}])
def test_the_report_of_another_version_promotes_nothing(two, wrong: dict) -> None:
    with pytest.raises(RegistryError, match="the report is of"):
        registry.promote("tiny", two[0], PROMOTED | wrong)
    assert registry.aliased("tiny", CHAMPION) is None


def test_a_lost_report_is_refused(two, registry_folder: Path) -> None:
    registry.promote("tiny", two[0], PROMOTED)
    report_file(registry_folder, two[0]).unlink()
    with pytest.raises(RegistryError, match=r"report\.json cannot be read"):
        registry.serving_target("tiny")


def test_an_artifact_exchanged_after_the_gate_is_refused(two, artifacts, registry_folder: Path) -> None:
    registry.promote("tiny", two[0], PROMOTED)
    digest = registry.serving_target("tiny").version.artifact
    (stored,) = registry_folder.rglob(f"artifact-{digest[:12]}")
    shutil.rmtree(stored)
    shutil.copytree(artifacts[2], stored)  # whole and valid, but not what the gate saw
    with pytest.raises(RegistryError, match="its gate report is of another artifact"):
        registry.serving_target("tiny")


def test_a_changed_weight_is_found_when_the_artifact_is_fetched(two, registry_folder: Path) -> None:
    digest = registry.find("tiny", two[0]).artifact
    (stored,) = registry_folder.rglob(f"artifact-{digest[:12]}")
    weights = stored / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    with pytest.raises(RegistryError, match=r"tiny 1: its artifact is corrupt: .*weights"):
        registry.download("tiny", two[0])


def test_rollback_swaps_champion_and_previous_and_back(two) -> None:
    registry.promote("tiny", two[0], PROMOTED)
    registry.promote("tiny", two[1], PROMOTED)
    assert registry.rollback("tiny").version.version == two[0]
    assert registry.serving_target("tiny").version.version == two[0]
    assert registry.aliased("tiny", PREVIOUS).version == two[1]
    assert registry.rollback("tiny").version.version == two[1]


def test_rollback_needs_a_justified_previous_version(two) -> None:
    registry.promote("tiny", two[0], PROMOTED)
    with pytest.raises(RegistryError, match="tiny has no previous"):
        registry.rollback("tiny")
    client().set_registered_model_alias("tiny", PREVIOUS, two[1])
    with pytest.raises(RegistryError, match="previous was moved by hand: it says 2, the last signed move says nothing"):
        registry.rollback("tiny")
    assert registry.serving_target("tiny").version.version == two[0]


def test_a_report_is_kept_as_plain_json(two, registry_folder: Path) -> None:
    registry.promote("tiny", two[0], PROMOTED, html="<p>better</p>")
    path = report_file(registry_folder, two[0])
    assert json.loads(path.read_text())["reason"] == "better by 5%"
    assert path.with_suffix(".html").read_text() == "<p>better</p>"


def test_a_version_says_what_it_is_and_what_it_reached(artifacts) -> None:
    mlflow = client()
    run = mlflow.create_run(mlflow.create_experiment("elsewhere"), tags={"model": "ease", "split_id": "s"}).info.run_id
    for name, value in (("valid/next_item/ndcg_10", 0.25), ("test/next_item/ndcg_10", 0.125)):
        mlflow.log_metric(run, name, value)
    version = registry.create_version("tiny", artifacts[1], run, {"label": "ease_200"})

    entry = mlflow.get_model_version("tiny", version)
    assert entry.description.splitlines()[0] == "ease_200"
    assert "| validation | 0.2500 |  |" in entry.description
    assert "| test window | 0.1250 |  |" in entry.description
    assert {"label": "ease_200", "model": "ease", "split_id": "s"}.items() <= entry.tags.items()
    assert "champion" in mlflow.get_registered_model("tiny").description


def test_a_version_shows_the_gates_verdict_whatever_it_is(two) -> None:
    registry.promote("tiny", two[0], PROMOTED)
    registry.note_verdict("tiny", two[1], {"verdict": "HOLD", "reason": "too close to call"})

    shown = {version: client().get_model_version("tiny", version) for version in two}
    assert [shown[version].tags["gate_verdict"] for version in two] == ["PROMOTE", "HOLD"]
    assert shown[two[0]].description == "item_knn: PROMOTE: better by 5%"
    assert shown[two[1]].description == "a model: HOLD: too close to call"
    assert registry.aliased("tiny", CHAMPION).version == two[0]
