"""A champion that passed by another policy than params.yaml has now is told, with what differs."""

from __future__ import annotations

import shutil
from pathlib import Path

from config import params
from config.paths import ROOT
from serving.deployment import gate_report, registry
from serving.deployment.status import overview

DATASET = params.load(ROOT / "params.yaml").dataset


def test_what_differs_is_named_with_both_values() -> None:
    report = {"dataset": "tiny", "version": "3", "policy": {"alpha": 0.04, "margin": 0.5, "refit": True}}
    now = {"alpha": 0.04, "margin": 0.02, "refit": False, "power": 0.8}
    told = "tiny 3 passed by another policy than params.yaml has: margin 0.5 -> 0.02, power None -> 0.8"
    assert gate_report.difference(report, now) == told
    assert gate_report.difference(report | {"policy": now}, now) is None
    assert gate_report.difference(report, None) is None
    assert gate_report.difference(report | {"policy": {}}, now) is None, "an override was made by no policy"


def test_the_policy_is_that_of_the_data_sets_own_settings(tmp_path: Path) -> None:
    shutil.copyfile(ROOT / "params.yaml", tmp_path / "params.yaml")
    own = tmp_path / "out" / "workspaces" / "shop" / "params.yaml"
    own.parent.mkdir(parents=True)
    text = (ROOT / "params.yaml").read_text()
    own.write_text(text.replace(f"dataset: {DATASET} ", "dataset: shop ").replace("margin: 0.02", "margin: 0.03", 1))
    project, workspace = gate_report.current(DATASET, tmp_path), gate_report.current("shop", tmp_path)
    assert project is not None
    assert workspace is not None
    assert (project["margin"], workspace["margin"]) == (0.02, 0.03)
    assert gate_report.current("nobody", tmp_path) is None
    own.write_text("gate: [")
    assert gate_report.current("shop", tmp_path) is None


def test_the_overview_tells_of_a_champion_that_a_loosened_policy_let_pass(artifacts, registry_folder: Path) -> None:
    now = gate_report.current(DATASET)
    assert now is not None
    version = registry.create_version(DATASET, artifacts[1])
    registry.promote(DATASET, version, {"verdict": "PROMOTE", "policy": now})
    assert not [line for line in overview(DATASET) if "ATTENTION" in line]
    registry.promote(DATASET, version, {"verdict": "PROMOTE", "policy": now | {"margin": 0.5}})
    assert f"margin 0.5 -> {now['margin']}" in overview(DATASET)[-1]
