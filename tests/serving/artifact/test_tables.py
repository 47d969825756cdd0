"""What an artifact says of items and segments."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from made_features import checkerboard, sides

from data.columns import DAY
from serving.artifact import item_tables

FEATURES = checkerboard(cut="valid")
RULES = [{"name": "odd", "all": [{"trait": "side", "equals": "1"}]}]


def test_what_a_segment_takes_is_counted_over_its_members_and_the_last_days(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(item_tables, "POPULAR_DAYS", 5)
    past = FEATURES.past
    theirs = (past.users % 2 == 1) & (past.times >= FEATURES.cut_us - 5 * DAY)

    (listed,) = item_tables.popular_by_segment(RULES, sides(), FEATURES).values()

    expected = np.bincount(past.items[theirs], minlength=len(FEATURES.vocabulary))
    assert dict(listed) == {row: count for row, count in enumerate(expected.tolist()) if count}
    assert [count for _, count in listed] == sorted((count for _, count in listed), reverse=True)


def test_a_cell_may_hold_several_values_and_numbers_are_none() -> None:
    items = pd.DataFrame({"item_id": ["a", "b", "c"], "genres": ["Drama|Crime", "Crime", None], "pages": [1, 2, 3]})

    assert item_tables.item_attributes(items, ["a", "b", "c"]) == {"genres": {"Crime": [1, 2], "Drama": [1]}}


def test_a_column_that_tells_items_apart_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(item_tables, "MOST_VALUES", 2)
    items = pd.DataFrame({"item_id": ["a", "b", "c"], "title": ["x", "y", "z"], "kind": ["u", "v", "u"]})

    assert item_tables.item_attributes(items, ["a", "b", "c"]) == {"kind": {"u": [1, 3], "v": [2]}}
