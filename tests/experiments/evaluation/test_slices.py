"""Which cases and which true items a slice keeps."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from experiments.evaluation.cases import Catalog, case_slices, collect_cases, item_slices, sliced_metrics

IDS = [f"{n}" for n in range(10)]
ITEMS = pd.DataFrame(
    {
        "item_id": [*IDS, "new"],
        "popularity": [50, 40, 30, 20, 10, 9, 8, 7, 6, 5, 0],
        "age_days": [400, 2, 7, 29.9, 30, 180, np.nan, 1, 1, 1, np.nan],
        "catalog": [True] * 10 + [False],
    }
)


def cases(histories=(0,), activities=None, truths=(("0",),), ranks=((1,),), target="next_item"):
    """Cases that rank the catalog in the order of IDS."""
    frame = pd.DataFrame(
        {
            "case_id": [f"{n}" for n in range(len(histories))],
            "user_id": [f"u{n}" for n in range(len(histories))],
            "target": target,
            "time": 0,
            "history_length": histories,
            "activity": activities or [1] * len(histories),
            "ranked": [IDS] * len(histories),
            "truth": [list(truth) for truth in truths] * (1 if len(truths) > 1 else len(histories)),
            "true_ranks": [list(rank) for rank in ranks] * (1 if len(ranks) > 1 else len(histories)),
        }
    )
    catalog = Catalog.from_items(ITEMS)
    return collect_cases([frame], target, catalog), catalog


def test_history_bins_meet_at_their_edges():
    found = case_slices(cases(histories=(0, 1, 4, 5, 19, 20, 99, 100, 5000))[0])
    assert {name: int(mask.sum()) for name, mask in found.items()} == {
        "cold": 1, "warm": 8, "history_1_4": 2, "history_5_19": 2, "history_20_99": 2, "history_100_up": 2,
    }  # fmt: skip


def test_activity_bins_meet_at_their_edges():
    found = case_slices(cases(histories=(0,) * 6, activities=[1, 2, 9, 10, 49, 50])[0])
    bins = {name: int(mask.sum()) for name, mask in found.items() if name.startswith("activity")}
    assert bins == {"activity_1": 1, "activity_2_9": 2, "activity_10_49": 2, "activity_50_up": 1}


def test_a_family_with_one_part_in_use_says_nothing_and_is_left_out():
    assert set(case_slices(cases(histories=(3, 4))[0])) == {"cold", "warm"}


def test_items_fall_in_one_of_head_tail_and_new():
    found, catalog = cases(truths=(("0", "1", "2", "9", "new"),), ranks=((1, 2, 3, 10, 2**31 - 1),))
    masks = item_slices(found.seeds[0], catalog)
    assert masks["head_items"].tolist() == [True, True, False, False, False]
    assert masks["tail_items"].tolist() == [False, False, True, True, False]
    assert masks["new_items"].tolist() == [False, False, False, False, True]


def test_item_age_bins_meet_at_their_edges_and_skip_the_unknown():
    truth, ranks = tuple(IDS[:7]), tuple(range(1, 8))
    found, catalog = cases(truths=(truth,), ranks=(ranks,))
    masks = item_slices(found.seeds[0], catalog)
    of_age = {name: [i for i, inside in zip(truth, m, strict=True) if inside] for name, m in masks.items()}
    assert of_age["item_age_0_6"] == ["1"]
    assert of_age["item_age_7_29"] == ["2", "3"]
    assert of_age["item_age_30_179"] == ["4"]
    assert of_age["item_age_180_up"] == ["0", "5"]


def test_an_item_slice_judges_only_its_items_at_their_full_ranks():
    found, catalog = cases(truths=(("0", "4"),), ranks=((1, 5),))
    values = sliced_metrics(found, catalog, 10, ("ndcg@10", "recall@10"))
    assert values["head_items"]["recall@10"][0] == 1
    assert values["tail_items"]["ndcg@10"][0] == pytest.approx(1 / np.log2(5 + 1))
    assert "new_items" not in values


def test_slices_without_a_case_are_left_out():
    found, catalog = cases(histories=(0, 0))
    assert "warm" not in sliced_metrics(found, catalog, 10, ("ndcg@10",))
