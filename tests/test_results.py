"""Numbers in documents equal those of the committed result files, and result files have their provenance."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from data.pages import interval_text

ROOT = Path(__file__).resolve().parent.parent
RESULTS = sorted((ROOT / "experiments" / "results").glob("*.json"))
ROW = re.compile(r"^\| (\w+)( \(registered\))? \| (0\.[^|]+) \| (0\.[^|]+) \|$", re.MULTILINE)


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.stem)
def test_every_result_has_its_provenance(path: Path) -> None:
    result = json.loads(path.read_text(encoding="utf-8"))

    assert result["dataset"] == path.stem
    for name in ("dataset_hash", "split_id", "commit", "command", "date", "seeds", "best_baseline"):
        assert result[name], f"{path.name}: {name} is empty"
    assert "changes" not in result["commit"], "measured with uncommitted code"
    assert result["registered"] in result["models"]
    assert (path.with_suffix(".md")).read_text(encoding="utf-8").startswith(f"# Leaderboard of {path.stem}\n")


def test_the_table_of_the_readme_equals_the_committed_result() -> None:
    rows = ROW.findall((ROOT / "README.md").read_text(encoding="utf-8"))
    result = json.loads((ROOT / "experiments" / "results" / "retail.json").read_text(encoding="utf-8"))

    assert len(rows) >= 5
    for label, registered, horizon, next_item in rows:
        targets = result["models"][label]["targets"]
        measured = [interval_text(targets[target]["metrics"]["ndcg@10"]) for target in ("horizon", "next_item")]
        assert [horizon, next_item] == measured, label
        assert bool(registered) == (label == result["registered"]), label
    assert result["commit"][:7] in (ROOT / "README.md").read_text(encoding="utf-8")
