"""Multi-valued cells, numbers and flags are read from every common form, and what is lost is named."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.readers.cells import find_separator, join_values, parse_list, read_trait

GENRES = [["Drama", "Comedy"], ["Drama"], ["Sci-Fi", "Drama"], []]
STORED = ["Drama|Comedy", "Drama", "Sci-Fi|Drama", None]


def column(*cells: object) -> pd.Series:
    return pd.Series(list(cells), dtype=object)


@pytest.mark.parametrize(
    ("form", "note"),
    [
        (json.dumps, "lists"),
        (str, "lists"),
        (lambda values: str(np.array(values)), "lists"),
        (lambda values: str(tuple(values)), "lists"),
        (lambda values: f"[{', '.join(values)}]", "lists"),
        (lambda values: json.dumps([{"id": 1, "name": value} for value in values]), "lists"),
        (lambda values: json.dumps({name: name in values for name in ("Sci-Fi", "Drama", "Comedy")}), "lists"),
        ("|".join, "separated by '|'"),
        (" | ".join, "separated by '|'"),
        (", ".join, "separated by ','"),
        (";".join, "separated by ';'"),
        (lambda values: ",".join(f'"{value}"' for value in values), "separated by ','"),
    ],
)
def test_genres_of_every_form_are_the_same(form, note) -> None:
    genres, found = join_values(column(*map(form, GENRES)), is_separated=True)

    assert [set((cell or "").split("|")) for cell in genres] == [set((cell or "").split("|")) for cell in STORED]
    assert found == note


def test_a_name_with_a_comma_stays_whole_where_bars_separate() -> None:
    cells = column("Arts, Crafts|Music", "Arts, Crafts", "Sport, Games", "Music", None)

    assert join_values(cells, is_separated=True)[0].tolist() == [
        "Arts, Crafts|Music", "Arts, Crafts", "Sport, Games", "Music", None,
    ]  # fmt: skip


def test_one_cell_with_another_separator_does_not_change_the_column() -> None:
    cells = column(*["Drama, Comedy"] + [f"Genre {n}, Drama" for n in range(40)], "War|Crime")

    genres, _ = join_values(cells, is_separated=True)

    assert genres[0] == "Drama|Comedy"
    assert genres.iloc[-1] == "War|Crime"


def test_a_bar_within_a_listed_value_is_replaced_and_named() -> None:
    genres, note = join_values(column('["R|B", "Soul"]', '["Soul"]'), is_separated=True)

    assert genres.tolist() == ["R/B|Soul", "Soul"]
    assert note == "lists, '|' within 1 values is written as '/'"


def test_vectors_of_flags_are_named_by_position_and_embeddings_have_no_value() -> None:
    flags, flags_note = join_values(column("[0, 1, 1]", "[1.0, 0.0, 0.0]", "[0, 0, 0]"), is_separated=False)
    vectors, vectors_note = join_values(column("[0.25, 1.0]", "[0.5, 0.75]"), is_separated=False)

    assert (flags.tolist(), flags_note) == (["2|3", "1", None], "flags, named by their position")
    assert (vectors.tolist(), vectors_note) == ([None, None], "lists of fractions are not read")


def test_text_of_another_column_is_not_taken_apart() -> None:
    cells = column("Smith, John", "[Draft] A title", "a|b", "(2001)")

    values, note = join_values(cells, is_separated=False)

    assert values.tolist() == cells.tolist()
    assert note is None


@pytest.mark.parametrize("text", ["", "[", "{", "(no genres listed)", "{'a': [1]}", "(" * 10_000 + ")", "Drama"])
def test_text_that_is_no_list_is_none(text: str) -> None:
    assert parse_list(text) is None


def test_quotes_within_a_listed_value_do_not_end_it() -> None:
    assert parse_list("""["a' 'b"]""") == ["a' 'b"]
    assert parse_list("['a' 'b c'\n 'd']") == ["a", "b c", "d"]


def test_a_column_without_separators_has_none() -> None:
    assert find_separator(["Drama", "Sci-Fi/Fantasy"]) is None


@given(st.lists(st.lists(st.text(st.characters(exclude_characters="|", codec="utf-8"), min_size=1), max_size=4)))
def test_json_and_python_lists_are_read_alike(lists: list[list[str]]) -> None:
    as_json, _ = join_values(column(*map(json.dumps, lists)), is_separated=True)
    as_python, _ = join_values(column(*map(repr, lists)), is_separated=True)

    assert as_json.tolist() == as_python.tolist()


# Numbers


@pytest.mark.parametrize(
    ("odd", "note"),
    [
        ("unknown", "1 without value: no number, such as 'unknown'"),
        ("1,234", "1 without value: no number, such as '1,234'"),
        ("inf", "1 without value: infinite or beyond 1e+100, such as 'inf'"),
        ("-Infinity", "1 without value: infinite or beyond 1e+100, such as '-Infinity'"),
        ("1e308", "1 without value: infinite or beyond 1e+100, such as '1e308'"),
        ("1e999", "1 without value: no number, such as '1e999'"),
        (None, None),
        ("  ", None),
    ],
)
def test_an_odd_cell_of_a_numeric_column_has_no_value_and_is_named(odd, note) -> None:
    numbers, found = read_trait(column(*map(str, range(19)), odd))

    assert numbers.dtype == "float64"
    assert numbers.tolist()[:19] == list(range(19))
    assert np.isnan(numbers.iloc[-1])
    assert found == note


@pytest.mark.parametrize(
    ("cells", "kept", "note"),
    [
        (["1", "2", "many"], ["1", "2", "many"], None),
        (["007", "12"], ["007", "12"], "kept as text: '007' is no plain number"),
        (["$9.99", "$10"], ["$9.99", "$10"], "kept as text: '$9.99' is no plain number"),
        (["12,5", "7,25"], ["12,5", "7,25"], "kept as text: '12,5' is no plain number"),
        (["45%", "5%"], ["45%", "5%"], "kept as text: '45%' is no plain number"),
        (["true", "FALSE", None], ["True", "False", None], None),
        (["free  ", " paid"], ["free", "paid"], None),
        (["yes", "no"], ["yes", "no"], None),
    ],
)
def test_other_columns_are_text(cells, kept, note) -> None:
    values, found = read_trait(column(*cells))

    assert (values.tolist(), found) == (kept, note)


def test_flags_of_parquet_and_csv_are_the_same() -> None:
    assert read_trait(pd.Series([True, False]))[0].tolist() == read_trait(column("TRUE", "false"))[0].tolist()
