"""What an artifact states of items and segments, and how its golden answers are computed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from made_features import checkerboard, sides
from tiny_artifact import write as write_artifact

from benchmarks._synthetic import Size, artifact, features
from config import params
from config.paths import ROOT
from data.columns import DAY
from serving.artifact import export_artifact
from serving.worker.recommender import Recommender
from training.models.artifact import MANIFEST, ArtifactError, load

SMALL = Size(users=20, items=30, events=5, width=8)
FEATURES = checkerboard(cut="valid")
RULES = [{"name": "odd", "all": [{"trait": "side", "equals": "1"}]}]


def test_popular_items_of_a_segment_are_counted_over_its_members_and_the_last_days(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(export_artifact, "POPULAR_DAYS", 5)
    past = FEATURES.past
    of_members = (past.users % 2 == 1) & (past.times >= FEATURES.cut_us - 5 * DAY)

    (popular,) = export_artifact.popular_by_segment(RULES, sides(), FEATURES).values()

    expected = np.bincount(past.items[of_members], minlength=len(FEATURES.vocabulary))
    assert dict(popular) == {row: count for row, count in enumerate(expected.tolist()) if count}
    assert [count for _, count in popular] == sorted((count for _, count in popular), reverse=True)


def test_a_cell_may_hold_several_values_and_numbers_are_left_out() -> None:
    items = pd.DataFrame({"item_id": ["a", "b", "c"], "genres": ["Drama|Crime", "Crime", None], "pages": [1, 2, 3]})

    assert export_artifact.item_attributes(items, ["a", "b", "c"]) == {"genres": {"Crime": [1, 2], "Drama": [1]}}


def test_a_column_that_identifies_items_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export_artifact, "MAX_ATTRIBUTE_VALUES", 2)
    items = pd.DataFrame({"item_id": ["a", "b", "c"], "title": ["x", "y", "z"], "kind": ["u", "v", "u"]})

    assert export_artifact.item_attributes(items, ["a", "b", "c"]) == {"kind": {"u": [1, 3], "v": [2]}}


def test_golden_answers_are_computed_with_the_one_thread_of_a_worker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads = []
    answer = Recommender.recommend

    def watched(*arguments, **more):
        threads.append(torch.get_num_threads())
        return answer(*arguments, **more)

    monkeypatch.setattr(Recommender, "recommend", watched)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        settings = params.load(ROOT / "params.yaml")
        artifact(tmp_path, features(SMALL, settings), SMALL, settings, steps=1)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)

    assert len(threads) > 1
    assert set(threads) == {1}


def test_an_artifact_of_an_older_format_is_refused_with_the_way_out(tmp_path: Path) -> None:
    folder = write_artifact(tmp_path / "artifact")
    manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    (folder / MANIFEST).write_text(json.dumps(manifest | {"format": 1}), encoding="utf-8")

    with pytest.raises(ArtifactError, match=r"has format 1; this version reads format \d+: train and export the model"):
        load(folder)
