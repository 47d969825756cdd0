"""What the demo does between the verbs: results come home, options that mean nothing are refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from experiments import demo


def test_results_of_a_workspace_come_home_even_where_the_project_has_none_yet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = tmp_path / "workspaces" / "shop" / "experiments" / "results"
    made.mkdir(parents=True)
    for suffix in ("json", "md"):
        (made / f"shop.{suffix}").write_text(suffix)
    (tmp_path / "experiments").mkdir()
    monkeypatch.setattr(demo, "ROOT", tmp_path)

    demo.publish(tmp_path / "workspaces" / "shop", "shop")

    home = tmp_path / "experiments" / "results"
    assert {path.name: path.read_text() for path in home.iterdir()} == {"shop.json": "json", "shop.md": "md"}


def test_a_failed_step_stops_the_demo_and_names_itself(tmp_path: Path) -> None:
    with pytest.raises(demo.UserError, match=r"gate failed \(.* ended with 3\); the reason stands above"):
        demo.step("gate", ["bash", "-c", "exit 3"], tmp_path, {"PATH": "/usr/bin:/bin"})
