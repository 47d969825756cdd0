"""The tables of a source meet by one spelling of each id, and every change is counted."""

from __future__ import annotations

import pandas as pd
from hypothesis import given
from hypothesis import strategies as st

from data.id_columns import id_errors, match_ids, replace_ids, unify_ids
from data.ids import canonical_id, id_problem
from data.readers.sources import Source
from data.readers.table import broken_lines

ANY_TEXT = st.text(st.characters(exclude_categories=()) | st.sampled_from("0123456789.eE+-\u00e9e\u0301\u200b\x00 "))


def source(events: list[tuple], users: list | None = None, items: list | None = None) -> Source:
    def side(column: str, ids: list | None) -> pd.DataFrame | None:
        return None if ids is None else pd.DataFrame({column: pd.Series(ids, dtype=object)})

    frame = pd.DataFrame(events, columns=["user_id", "item_id"], dtype=object)
    broken = broken_lines().assign(table=[])
    return Source("table", frame, side("user_id", users), side("item_id", items), (), broken)


def test_floats_become_integers_if_the_ids_of_one_table_are_numeric():
    ids = unify_ids(source([("100.0", "7.0"), ("admin", "8.0")], users=["100", "101"], items=["7.0", "lamp"]))

    assert ids.events["user_id"].tolist() == ["100", "admin"]
    assert ids.events["item_id"].tolist() == ["7", "8"]
    assert ids.items["item_id"].tolist() == ["7", "lamp"]
    assert ids.numeric == ["user_id", "item_id"]


def test_floats_stay_where_no_table_is_numeric():
    ids = unify_ids(source([("1.0", "a"), ("1.5", "b")]))

    assert ids.events["user_id"].tolist() == ["1.0", "1.5"]
    assert ids.numeric == []


def test_changes_are_counted_by_distinct_spelling_with_an_example():
    ids = unify_ids(source([(" 1", "Jose\u0301"), (" 1", "Jos\u00e9"), ("2.0", "b"), (None, "b")], users=["1", "2"]))

    assert ids.counts["ids"] == {
        "user_id": {
            "numeric": True, "trimmed": 1, "normalized": 0, "shortened": 1,
            "examples": {"trimmed": [" 9", "9"], "shortened": ["9.9", "9"]},
        },
        "item_id": {
            "numeric": False, "trimmed": 0, "normalized": 1, "shortened": 0,
            "examples": {"normalized": ["Jose\u0301", "Jos\u00e9"]},
        },
    }  # fmt: skip
    assert ids.events["user_id"].tolist() == ["1", "1", "2", None]
    assert ids.counts["matches"] == {
        "users": {"ids": 2, "events": 2, "both": 2, "only_in_table": [], "only_in_events": []}
    }


def test_a_match_names_ids_that_only_one_table_holds():
    match = match_ids(pd.Series(["a", "b", None]), pd.Series(["b", "b", "c"]))

    assert match == {"ids": 2, "events": 2, "both": 1, "only_in_table": ["a"], "only_in_events": ["c"]}


def test_a_match_of_users_shows_what_their_ids_look_like_and_names_nobody():
    match = match_ids(pd.Series(["Al_2@example.org"], name="user_id"), pd.Series(["17"], name="user_id"))

    assert (match["only_in_table"], match["only_in_events"]) == (["Aa_9@aaaaaaa.aaa"], ["99"])


def test_an_unusable_id_is_an_error_of_its_row():
    table = pd.DataFrame({"user_id": ["a", "x" * 300, None, "b"], "item_id": ["i", "j\x00", "k", "l\ud800"]})

    assert id_errors(table, ["user_id", "item_id"], []).to_dict() == {
        1: "user_id is longer than 256 characters",
        3: "item_id holds half of a surrogate pair",
    }


@given(st.lists(st.none() | ANY_TEXT, min_size=1), st.booleans())
def test_a_column_changes_as_each_of_its_ids_does(texts, is_numeric):
    column = pd.Series(texts, dtype=object)
    spelling = {text: canonical_id(text, is_numeric) for text in texts if text is not None}

    replaced = replace_ids(column, spelling).tolist()

    expected = [None if text is None else canonical_id(text, is_numeric) for text in texts]
    assert [text or None for text in replaced] == [text or None for text in expected]
    frame = pd.DataFrame({"user_id": pd.Series(expected, dtype=object)})
    errors = id_errors(frame, ["user_id"], ["user_id"] if is_numeric else [])
    problems = {
        row: f"user_id {id_problem(text, is_numeric)}"
        for row, text in enumerate(expected)
        if text is not None and id_problem(text, is_numeric)
    }
    assert errors.to_dict() == problems
