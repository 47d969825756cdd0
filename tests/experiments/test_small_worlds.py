"""Tiny and one-sided datasets: every stage ends, and what has nothing to check is not decided."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from small_pipeline import inside, run_stages

from experiments import audit, compare, gate, tune
from experiments.orchestration import steps
from features import materialize

START, HOUR = 1_704_067_200, 3600  # 2024-01-01 UTC

Event = tuple[str, str, int]  # user, item, time
WORLDS: dict[str, list[Event]] = {
    "everybody took everything": [(f"u{k // 4}", f"i{k % 4}", START + k * HOUR) for k in range(80)],
    "one burst, then a few": [(f"u{k % 12}", f"i{k % 7}", START + max(0, k - 70) * HOUR) for k in range(84)],
    "new users and new items only": [(f"u{k}", f"i{k}", START + k * HOUR) for k in range(12)],
}
NEW_ITEMS: list[Event] = [(f"u{k % 2}", f"i{k}", START + k * HOUR) for k in range(40)]


@pytest.fixture(autouse=True)
def registry(tmp_path: Path, empty_registry: Path) -> None:
    """The database of the stages, which each world would take seconds to make."""
    shutil.copyfile(empty_registry, tmp_path / "mlflow.db")


def run_world(folder: Path, events: list[Event], models: tuple[str, ...]) -> Path:
    """Every stage from ingest to the leaderboard, on these events."""
    log = folder / "log.csv"
    log.write_text("user_id,item_id,event_time\n" + "".join(f"{u},{i},{t}\n" for u, i, t in events), encoding="utf-8")
    run_stages(folder, models, source="auto", path=str(log), event_types=None)
    (folder / "results").mkdir()
    with inside(folder):
        assert compare.main(["--dataset", "demo", "--out", "out/experiments", "--results", "results"]) == 0
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("world", WORLDS)
def test_every_stage_ends_and_the_audit_passes_or_decides_nothing(
    tmp_path: Path, world: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = run_world(tmp_path, WORLDS[world], ("popularity",))
    with inside(folder):
        assert audit.main([]) == 0

    checks = json.loads((folder / "out/experiments/audit.json").read_text(encoding="utf-8"))["checks"]
    open_checks = [check for check in checks if not check["rows"]]
    page = (folder / "out/experiments/audit.html").read_text(encoding="utf-8")
    assert open_checks
    assert page.count("<td>not decided") == len(open_checks)
    assert page.count("<td>passed") == len(checks) - len(open_checks)
    assert (
        f"no leaks in {len(checks) - len(open_checks)} checks, {len(open_checks)} not decided"
        in capsys.readouterr().out
    )


@pytest.mark.slow
def test_a_network_without_validation_cases_is_fitted_tuned_and_not_promoted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = run_world(tmp_path, NEW_ITEMS, ("popularity", "two_tower"))
    with inside(folder):
        fit = json.loads(Path("out/training/two_tower/valid/fit.json").read_text(encoding="utf-8"))
        assert fit["validation"] == {}
        assert fit["hyperparameters"]["best_steps"] > 0
        assert tune.main(["--trials", "1"]) == 0
        assert gate.main(["--allow-uncommitted"]) == 0
        assert materialize.main([]) == 0
        printed = capsys.readouterr().out
        undecided = steps.undecided(folder)
        page = Path("out/experiments/gate.html").read_text(encoding="utf-8")

    assert "first champion: a baseline; which is best is not decided, since validation has no cases" in printed
    assert "INSUFFICIENT_DATA two_tower" in printed
    assert "too little data to judge two_tower; popularity (version 1) stays the champion" in page
    assert "– not decided" in page
    assert "  gate: whether two_tower is better than the champion, which stays" in undecided.splitlines()
    assert "  gate: Enough users" in undecided.splitlines()
    assert "  audit: time travel (valid)" in undecided.splitlines()
