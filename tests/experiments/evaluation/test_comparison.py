"""Models are chosen on validation and compared on the same cases."""

from __future__ import annotations

import json

import pandas as pd
import pytest
from made_board import ORIGIN, build, change

from experiments.evaluate import headline
from experiments.evaluation.comparison import (
    CompareError,
    MeasuredModel,
    best_baseline,
    best_on_validation,
    compare_pair,
    read_metrics,
)


def test_the_registered_model_is_the_learned_one_that_is_best_on_validation_whatever_it_reaches_later(out):
    worst = {"learned": True, "baseline": False}  # on the test period
    change(out, "popularity", **worst, validation={"next_item": {"ndcg@10": 0.9}})
    measured = read_metrics(out / "metrics", "made")

    assert best_on_validation(measured, learned=True) == "popularity"
    assert best_on_validation(measured, learned=False) == "ease"
    assert best_on_validation([], learned=True) is None


def test_both_targets_count_in_the_choice(out):
    change(
        out,
        "ease",
        learned=True,
        baseline=False,
        validation={t: {"ndcg@10": v} for t, v in (("next_item", 0.31), ("horizon", 0.1))},
    )
    change(out, "ours", validation={t: {"ndcg@10": v} for t, v in (("next_item", 0.30), ("horizon", 0.2))})

    assert best_on_validation(read_metrics(out / "metrics", "made"), learned=True) == "ours"


def test_a_hybrid_is_compared_with_each_of_its_parts(out):
    change(out, "ours", params={"parts": {"popularity": {}, "ease": {}, "not_measured": {}}})

    found = {(one["model"], one["against"], one["target"]) for one in build(out).comparisons}

    assert {("ours", part, target) for part in ("popularity", "ease") for target in ("horizon", "next_item")} <= found
    assert not [pair for pair in found if pair[1] == "not_measured"]


def test_a_learned_baseline_is_compared_with_but_never_registered(out):
    change(out, "ease", learned=True, validation={"next_item": {"ndcg@10": 0.9}})
    board = build(out)

    assert best_on_validation(board.models, learned=True) == "ours"
    assert best_on_validation(board.models, learned=False) == "popularity"
    assert board.best_baseline["next_item"] == "ease"
    assert {(one["model"], one["against"]) for one in board.comparisons} == {("ours", "ease")}


def test_the_best_baseline_is_never_a_learned_model_or_the_oracle(out):
    board = build(out)
    assert board.best_baseline == {"horizon": "ease", "next_item": "ease"}
    assert board.ranked("next_item")[0].label == "ours"
    assert best_baseline([one for one in board.models if not one.baseline], "next_item") is None


def test_every_learned_model_is_compared_with_the_best_baseline_of_each_target(out):
    lines = build(out).comparisons
    assert [(line["target"], line["model"], line["against"]) for line in lines] == [
        ("horizon", "ours", "ease"), ("next_item", "ours", "ease"),
    ]  # fmt: skip
    for line in lines:
        assert line["low"] < line["difference"] < line["high"]
        assert line["low"] > 0
        assert set(line["slices"]) == {"cold", "warm"}


def test_a_difference_is_the_difference_of_the_published_means(out):
    board = build(out)
    points = {one.label: one.point("next_item", "ndcg@10") for one in board.models}
    line = board.comparisons[1]
    assert line["difference"] == pytest.approx(points["ours"] - points["ease"])
    assert line["relative"] == pytest.approx(points["ours"] / points["ease"] - 1)


def test_a_model_against_its_copy_differs_by_exactly_zero(out):
    lines = build(out, pairs=[("ease", "ease")]).comparisons
    copies = [line for line in lines if line["model"] == "ease"]
    assert len(copies) == 2
    for line in copies:
        assert (line["difference"], line["low"], line["high"], line["relative"]) == (0, 0, 0, 0)


def test_other_cases_are_refused_even_under_the_same_split_id(out):
    board = build(out)
    ours, ease = (next(one for one in board.models if one.label == label) for label in ("ours", "ease"))
    tables = {one.label: [pd.read_parquet(p) for p in one.ranking_files(out / "rankings")] for one in (ours, ease)}
    tables["ease"] = [frame[frame["case_id"] != "next_item-100"] for frame in tables["ease"]]
    with pytest.raises(CompareError, match="ours and ease have different next_item cases"):
        compare_pair(ours, ease, lambda one: tables[one.label], "next_item", 0, 100)


def test_a_pair_nobody_measured_is_refused(out):
    with pytest.raises(CompareError, match="no metrics of 'them'; expected one of ease, oracle, ours, popularity"):
        build(out, pairs=[("ours", "them")])


def test_a_tuned_model_is_compared_with_its_default_values(out):
    facts = json.loads((out / "metrics" / "ours.json").read_text(encoding="utf-8"))
    asked = {"label": "ours_default", "params": {"rate": 1.0, "embedding_dim": 3}}
    (out / "metrics" / "ours_default.json").write_text(json.dumps(facts | asked), encoding="utf-8")

    assert ("ours", "ours_default") in {(line["model"], line["against"]) for line in build(out).comparisons}


def test_two_learned_models_that_differ_in_one_parameter_are_compared(out):
    facts = json.loads((out / "metrics" / "ours.json").read_text(encoding="utf-8"))
    asked = {"loss": "in_batch", "embedding_dim": 8, "best_steps": 7}
    for label, changes in (
        ("plain", {"loss": "uncorrected", "best_steps": 9}),
        ("wide", {"loss": "b", "embedding_dim": 9}),
    ):
        other = facts | {"label": label, "params": asked | changes}
        (out / "metrics" / f"{label}.json").write_text(json.dumps(other), encoding="utf-8")
    change(out, "ours", params=asked)

    pairs = {(line["model"], line["against"]) for line in build(out).comparisons}

    assert ("ours", "plain") in pairs
    assert not {("ours", "wide"), ("plain", "wide")} & pairs


# Metrics files


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
