"""Every published number is computed twice: by the code and by an independent implementation of the definitions."""

from __future__ import annotations

import json
import math

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_rankings import made_rankings
from reference_metrics import recompute, recompute_slice
from small_pipeline import BASELINES

from experiments.evaluation.measure import measure

K = (5, 10, 20, 50, 100)


def must_equal(published, recomputed, what):
    """Equal to 1e-9, or both undefined."""
    if recomputed is None:
        assert published is None, what
    else:
        assert published == pytest.approx(recomputed, rel=0, abs=1e-9), what


def must_be_recomputed(targets, frames, items):
    """Every metric and slice of measure()'s answer follows from the rankings and items alone."""
    for target, found in targets.items():
        recomputed = recompute(frames, items, target)
        assert set(recomputed) == set(found["metrics"])
        for key, entry in found["metrics"].items():
            must_equal(entry.get("mean", entry.get("value")), recomputed[key], (target, key))
        for name, part in found["slices"].items():
            again = recompute_slice(frames, items, target, name)
            assert (part["users"], part["cases"]) == (again["users"], again["cases"]), (target, name)
            for key, entry in part["metrics"].items():
                must_equal(entry["mean"], again[key], (target, name, key))


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    items=st.integers(3, 160),
    users=st.integers(1, 10),
    cases=st.integers(1, 20),
    seeds=st.integers(1, 3),
    content=st.booleans(),
)
def test_every_metric_equals_its_second_implementation(seed, items, users, cases, seeds, content):
    frames, table = made_rankings(seed, items, users, cases, seeds, content=content)
    must_be_recomputed(measure(frames, table, seed=0, resamples=100), frames, table)


@pytest.mark.slow
@pytest.mark.parametrize("label", [*BASELINES, "two_tower"])
def test_what_evaluate_writes_is_recomputed_from_its_rankings_and_items_files(pipeline, label):
    out = pipeline / "out/experiments"
    published = json.loads((out / "metrics" / f"{label}.json").read_text(encoding="utf-8"))
    targets = {name: found for name, found in published["targets"].items() if name in ("horizon", "next_item")}

    assert set(targets) == {"horizon", "next_item"}
    rankings = [pd.read_parquet(out / "rankings" / f"{label}.parquet")]
    must_be_recomputed(targets, rankings, pd.read_parquet(out / "rankings" / "items.parquet"))


def test_rankings_survive_parquet(tmp_path):
    frames, table = made_rankings()
    frames[0].to_parquet(tmp_path / "r.parquet")
    table.to_parquet(tmp_path / "i.parquet")
    read = measure(pd.read_parquet(tmp_path / "r.parquet"), pd.read_parquet(tmp_path / "i.parquet"), 0, 100)
    assert read == measure(frames[0], table, 0, 100)


def test_the_answer_is_json_and_the_same_each_time():
    frames, table = made_rankings()
    first, second = measure(frames, table, 7, 200), measure(frames, table, 7, 200)
    assert json.dumps(first, allow_nan=False) == json.dumps(second, allow_nan=False)
    assert measure(frames, table, 8, 200) != first


def test_the_order_of_rows_does_not_matter():
    frames, table = made_rankings()
    shuffled = frames[0].sample(frac=1, random_state=1)
    found = measure(shuffled, table.sample(frac=1, random_state=2), 0, 100)
    unshuffled = measure(frames[0], table, 0, 100)

    assert found.keys() == unshuffled.keys() == {"horizon", "next_item"}
    for target, expected in unshuffled.items():
        for key, entry in expected["metrics"].items():
            assert found[target]["metrics"][key] == pytest.approx(entry), (target, key)


def test_every_mean_has_an_interval_and_coverage_and_gini_have_none():
    frames, table = made_rankings(cases=200)
    targets = measure(frames, table, 0, 200)

    assert set(targets) == {"horizon", "next_item"}
    for found in targets.values():
        for key, entry in found["metrics"].items():
            if key.split("@")[0] in ("coverage", "gini"):
                assert set(entry) == {"value"}
            else:
                assert entry["low"] <= entry["mean"] <= entry["high"], key


def test_next_is_averaged_over_cases_with_the_mean_of_users_beside_it():
    frames, table = made_rankings(users=2, cases=4)
    table = table.assign(catalog=True)
    rows = frames[0][frames[0]["target"] == "next_item"].copy().iloc[:4]
    ids = list(table["item_id"])
    rows["user_id"] = ["a", "a", "a", "b"]
    rows["ranked"] = [ids] * 4
    rows["truth"] = [[ids[0]], [ids[0]], [ids[0]], [ids[20]]]
    rows["true_ranks"] = [[1], [1], [1], [21]]
    found = measure(rows, table, 0, 100)["next_item"]["metrics"]
    assert found["recall@10"]["mean"] == pytest.approx(3 / 4)
    assert found["recall@10_by_user"]["mean"] == pytest.approx((1 + 0) / 2)


def test_seeds_are_averaged_case_by_case_before_users_are_resampled():
    frames, table = made_rankings(users=30, cases=300, seeds=5)
    both = measure(frames, table, 0, 300)["next_item"]["metrics"]["ndcg@10"]
    each = [measure(frame, table, 0, 300)["next_item"]["metrics"]["ndcg@10"] for frame in frames]
    assert both["mean"] == pytest.approx(sum(one["mean"] for one in each) / 5)
    assert both["high"] - both["low"] < min(one["high"] - one["low"] for one in each)


def test_cold_and_warm_make_the_whole():
    frames, table = made_rankings(cases=200)
    targets = measure(frames, table, 0, 100)

    assert set(targets) == {"horizon", "next_item"}
    for found in targets.values():
        cold, warm = found["slices"]["cold"], found["slices"]["warm"]
        assert cold["cases"] + warm["cases"] == found["cases"]
        total = sum(part["cases"] * part["metrics"]["ndcg@10"]["mean"] for part in (cold, warm))
        assert total / found["cases"] == pytest.approx(found["metrics"]["ndcg@10"]["mean"])


def test_head_tail_and_new_items_share_out_the_true_items_of_next():
    frames, table = made_rankings(cases=200)
    slices = measure(frames, table, 0, 100)["next_item"]["slices"]
    assert sum(slices[name]["cases"] for name in ("head_items", "tail_items", "new_items")) == 200
    assert slices["new_items"]["metrics"]["recall@10"]["mean"] == 0


def test_a_target_without_cases_is_left_out():
    frames, table = made_rankings()
    assert set(measure(frames[0][frames[0]["target"] == "next_item"], table, 0, 100)) == {"next_item"}


def test_a_true_item_below_the_kept_list_is_a_miss_at_every_k():
    _, table = made_rankings(items=150)
    ids = list(table.loc[table["catalog"], "item_id"])
    case = {"case_id": "1", "user_id": "u", "target": "next_item", "time": 0, "history_length": 0, "activity": 1}
    frame = pd.DataFrame([case | {"ranked": ids[:100], "truth": [ids[119]], "true_ranks": [120]}])
    found = measure(frame, table, 0, 100)["next_item"]["metrics"]
    assert [found[f"recall@{k}"]["mean"] for k in K] == [0] * len(K)
    assert found["mrr@100"]["mean"] == 0


def test_k_beyond_the_kept_list_is_refused():
    frames, table = made_rankings()
    with pytest.raises(ValueError, match=r"k is \[10, 200\]; expected values in \[1, 100\]"):
        measure(frames, table, 0, 100, k=[10, 200])


def test_the_reference_itself_agrees_with_numbers_worked_by_hand():
    table = pd.DataFrame({"item_id": list("abcde"), "popularity": [8, 4, 2, 1, 1], "catalog": True})
    case = {"case_id": "1", "user_id": "u", "target": "next_item", "time": 0, "history_length": 0, "activity": 1}
    frame = pd.DataFrame([case | {"ranked": list("abcd"), "truth": ["b", "d"]}])
    found = recompute([frame], table, "next_item", ks=(3,))
    assert found["recall@3"] == 1 / 2
    assert found["ndcg@3"] == pytest.approx((1 / math.log2(3)) / (1 + 1 / math.log2(3)))
    assert found["map@3"] == pytest.approx((1 / 2) / 2)
    assert found["mrr@100"] == 1 / 2
    assert found["coverage@3"] == 3 / 5
    assert found["novelty@10"] == pytest.approx((1 + 2 + 3 + 4) / 4)
    assert found["popularity_percentile@10"] == pytest.approx((4.5 + 3.5 + 2.5 + 1) / 5 / 4)
