"""Cases of several seeds are aligned, and the catalog has a head."""

from __future__ import annotations

import pandas as pd
import pytest
from made_rankings import made_rankings

from config.command import UserError
from experiments.evaluation.cases import Catalog, collect_cases

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


def test_seeds_on_different_cases_are_refused():
    frames, items = made_rankings(seeds=2)
    with pytest.raises(UserError, match="seeds of one model hold different horizon cases"):
        collect_cases([frames[0], frames[1].iloc[1:]], "horizon", Catalog.from_items(items))


def test_a_target_without_cases_gives_none():
    frames, items = made_rankings()
    only_next = frames[0][frames[0]["target"] == "next_item"]
    assert collect_cases([only_next], "horizon", Catalog.from_items(items)) is None
