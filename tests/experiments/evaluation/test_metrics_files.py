"""Metrics files are read together only if they rest on the same split, data and segments."""

from __future__ import annotations

import pytest
from made_board import ORIGIN, change

from experiments.evaluation.metrics_files import CompareError, MeasuredModel, headline, read_metrics


@pytest.mark.parametrize("name", ["split_id", "dataset_hash"])
def test_numbers_of_another_split_or_data_are_refused(out, name):
    change(out, "ours", **{name: "other"})
    with pytest.raises(CompareError, match=f"measured on {name} .*; evaluate both on one split"):
        read_metrics(out / "metrics", "made")


def test_metrics_of_another_dataset_are_skipped(out):
    change(out, "popularity", dataset="elsewhere", split_id="s2")
    assert [one.label for one in read_metrics(out / "metrics", "made")] == ["ease", "oracle", "ours"]


def test_a_metrics_file_without_ranking_names_has_one_file_by_label(out):
    one = MeasuredModel.model_validate(ORIGIN | {"label": "ease", "model": "ease", "params": {}, "fit_seconds": None,
                                            "baseline": True, "learned": False, "seeds": [0], "targets": {}})  # fmt: skip
    assert [path.name for path in one.ranking_files(out)] == ["ease.parquet"]


def test_one_name_for_two_segments_is_refused(out):
    for label, rule in (("ease", "events at least 1"), ("ours", "events at least 3")):
        change(out, label, segments={"segment:odd": rule})
    (out / "metrics/oracle.json").unlink()
    (out / "metrics/popularity.json").unlink()
    with pytest.raises(
        CompareError, match=r"ease was measured on segments .*, ours on .* with the same segments\.rules"
    ):
        read_metrics(out / "metrics", "made")


def test_the_headline_has_both_targets_and_the_score_with_frozen_trends():
    targets = {
        target: {"metrics": {"ndcg@10": {"mean": mean}}}
        for target, mean in (("horizon", 0.1824), ("next_item", 0.1616), ("next_item_frozen", 0.1551))
    }
    assert headline(targets) == "NDCG@10 next_item 0.162 (0.155 with frozen trends), horizon 0.182"
