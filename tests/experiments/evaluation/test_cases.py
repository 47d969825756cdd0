"""Rankings and items are checked before they are measured."""

from __future__ import annotations

import pandas as pd
import pytest
from made_rankings import made_rankings

from experiments.evaluation.cases import Catalog, RankingsError, collect_cases

ITEMS = pd.DataFrame(
    {
        "item_id": [f"{n}" for n in range(11)],
        "popularity": [50, 40, 30, 20, 10, 9, 8, 7, 6, 5, 0],
        "catalog": [True] * 10 + [False],
    }
)


def test_head_is_the_most_popular_fifth_of_the_catalog():
    catalog = Catalog.from_items(ITEMS)
    assert list(catalog.ids[catalog.head]) == ["0", "1"]


@pytest.mark.parametrize(
    ("items", "message"),
    [
        (ITEMS.drop(columns="popularity"), "column popularity is missing"),
        (ITEMS.assign(item_id="7"), "'7' occurs twice"),
        (ITEMS.assign(catalog=False), "no row has catalog = true"),
    ],
)
def test_an_items_table_that_cannot_be_used_is_refused(items, message):
    with pytest.raises(RankingsError, match=message):
        Catalog.from_items(items)


@pytest.mark.parametrize(
    ("target", "change", "message"),
    [
        ("next_item", lambda f: f.drop(columns="activity"), "column activity is missing"),
        ("next_item", lambda f: pd.concat([f, f]), "occurs twice"),
        ("next_item", lambda f: f.assign(ranked=[["?"]] * len(f)), "holds '\\?', which is not in items"),
        ("next_item", lambda f: f.assign(true_ranks=[[0]] * len(f)), "a rank is 0"),
        ("next_item", lambda f: f.assign(true_ranks=[[]] * len(f), truth=[[]] * len(f)), "has no true item"),
        ("next_item", lambda f: f.assign(truth=[[*t, t[0]] for t in f["truth"]]), "different number of items in truth"),
        (
            "next_item",
            lambda f: f.assign(ranked=[list(r)[::-1] for r in f["ranked"]]),
            "ranked and true_ranks disagree",
        ),
        (
            "next_item",
            lambda f: f.assign(true_ranks=[[99] * len(r) for r in f["true_ranks"]]),
            "beyond the end of its list",
        ),
        ("horizon", lambda f: f.assign(user_id="u0"), "horizon cases of 1 users"),
    ],
)
def test_rankings_that_contradict_themselves_are_refused(target, change, message):
    frames, items = made_rankings()
    with pytest.raises(RankingsError, match=message):
        collect_cases([change(frames[0])], target, Catalog.from_items(items))


def test_seeds_on_different_cases_are_refused():
    frames, items = made_rankings(seeds=2)
    with pytest.raises(RankingsError, match="seeds of one model hold different horizon cases"):
        collect_cases([frames[0], frames[1].iloc[1:]], "horizon", Catalog.from_items(items))


def test_a_target_without_cases_gives_none():
    frames, items = made_rankings()
    only_next = frames[0][frames[0]["target"] == "next_item"]
    assert collect_cases([only_next], "horizon", Catalog.from_items(items)) is None
