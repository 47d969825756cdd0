"""What demo and experiment do between the verbs: results come home, a step that fails stops them."""

from __future__ import annotations

from pathlib import Path

import pytest

from config.command import UserError
from experiments.orchestration import steps


def test_results_of_a_workspace_come_home_even_where_the_project_has_none_yet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = tmp_path / "workspaces" / "shop" / "experiments" / "results"
    made.mkdir(parents=True)
    for suffix in ("json", "md"):
        (made / f"shop.{suffix}").write_text(suffix, encoding="utf-8")
    (tmp_path / "experiments").mkdir()
    monkeypatch.setattr(steps, "ROOT", tmp_path)
    monkeypatch.setattr(steps, "RESULTS", tmp_path / "experiments/results")

    steps.publish(tmp_path / "workspaces" / "shop", "shop")

    home = tmp_path / "experiments" / "results"
    assert {path.name: path.read_text(encoding="utf-8") for path in home.iterdir()} == {
        "shop.json": "json",
        "shop.md": "md",
    }


def test_a_failed_step_stops_what_it_is_part_of_and_names_itself(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("raise SystemExit(3)", encoding="utf-8")

    with pytest.raises(
        UserError, match=r"^gate failed \(-m broken --now ended with 3\); the reason is in the output above$"
    ):
        steps.step("gate", "broken", ["--now"], tmp_path, {"PATH": "/usr/bin:/bin"})


def test_a_workspace_keeps_its_state_with_the_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TIDEGATE_STATE")
    assert steps.environment()["TIDEGATE_STATE"] == str(steps.ROOT / "state")
    monkeypatch.setenv("TIDEGATE_STATE", str(tmp_path / "elsewhere"))
    assert steps.environment()["TIDEGATE_STATE"] == str(tmp_path / "elsewhere")
