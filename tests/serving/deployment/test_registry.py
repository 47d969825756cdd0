"""An artifact is registered once, and downloads as it was registered."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from serving.deployment import decisions, promotion, registry
from serving.deployment.registry import RegistryError, registry_client

pytestmark = pytest.mark.usefixtures("registry_folder")


def test_an_artifact_downloads_as_it_was_registered(two, artifacts, tmp_path: Path) -> None:
    into = tmp_path / "back"
    into.mkdir()
    folder = registry.download_artifact(registry.find_version("tiny", two[1]), into)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {
        path.name: path.read_bytes() for path in artifacts[2].iterdir()
    }


def test_an_artifact_is_registered_once(two, artifacts) -> None:
    assert registry.register_version("tiny", artifacts[1]) == two[0]
    assert [version.version for version in registry.list_versions("tiny")] == ["1", "2"]


def test_a_version_belongs_to_the_run_that_made_it(artifacts) -> None:
    mlflow = registry_client()
    run = mlflow.create_run(mlflow.create_experiment("elsewhere")).info.run_id
    version = registry.register_version("tiny", artifacts[1], run)
    assert registry.find_version("tiny", version).run_id == run
    with pytest.raises(RegistryError, match="Run with id=0123 not found"):
        registry.register_version("tiny", artifacts[2], "0123")


def test_what_the_registry_names_is_on_disk_before_it_is_named(
    artifacts, registry_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: set[str] = set()
    fsync = os.fsync

    def record(file: int) -> None:
        synced.add(os.readlink(f"/proc/self/fd/{file}"))
        fsync(file)

    monkeypatch.setattr(os, "fsync", record)
    version = registry.register_version("tiny", artifacts[1])
    promotion.promote("tiny", version, {"verdict": "PROMOTE", "reason": "a test"})
    stored = registry_folder / "mlartifacts"
    assert {str(path) for path in [stored, *stored.rglob("*")]} <= synced
    assert str(decisions.memory_path().resolve()) in {
        path.replace(f".{decisions.memory_path().name}.{os.getpid()}.partial", "newest_decisions.json")
        for path in synced
    }


def test_artifacts_lie_beside_the_database(two, registry_folder: Path) -> None:
    assert len(list((registry_folder / "mlartifacts").rglob("weights.safetensors"))) == 2


def test_a_changed_weight_is_found_at_download(two, registry_folder: Path, tmp_path: Path) -> None:
    version = registry.find_version("tiny", two[0])
    (stored,) = registry_folder.rglob(f"artifact-{version.artifact[:12]}")
    weights = stored / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    with pytest.raises(RegistryError, match=r"tiny 1: its artifact is corrupt: .*weights"):
        registry.download_artifact(version, tmp_path)


def test_a_version_description_names_its_label_and_scores(artifacts) -> None:
    mlflow = registry_client()
    run = mlflow.create_run(mlflow.create_experiment("elsewhere"), tags={"model": "ease", "split_id": "s"}).info.run_id
    for name, value in (("valid/next_item/ndcg_10", 0.25), ("test/next_item/ndcg_10", 0.125)):
        mlflow.log_metric(run, name, value)
    version = registry.register_version("tiny", artifacts[1], run, {"label": "ease_200"})

    entry = mlflow.get_model_version("tiny", version)
    assert entry.description.splitlines()[0] == "ease_200"
    assert "| validation | 0.2500 |  |" in entry.description
    assert "| test window | 0.1250 |  |" in entry.description
    assert {"label": "ease_200", "model": "ease", "split_id": "s"}.items() <= entry.tags.items()
    assert "champion" in mlflow.get_registered_model("tiny").description
