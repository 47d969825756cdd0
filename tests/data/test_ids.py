"""An id has one spelling, wherever it comes from."""

from __future__ import annotations

import re
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.ids import MAX_LENGTH, TRIMMED, VALID_PATTERN, are_numeric, canonical_id, id_problem

ANY_TEXT = st.text(st.characters(exclude_categories=()) | st.sampled_from("0123456789.eE+-\u00e9e\u0301\u200b\x00 "))
NUMBERS = st.from_regex(r"\A-?[0-9]{1,18}(\.0{0,2})?\Z|\A[0-9](\.[0-9]{0,4})?[eE]\+[0-9]{1,2}\Z")


@pytest.mark.parametrize(
    ("text", "spelling"),
    [
        (" u1\t", "u1"),
        ("7000      ", "7000"),
        ("\u00a0u1\u3000", "u1"),
        ("\ufeffu1\u200b", "u1"),
        ("Jose\u0301", "Jos\u00e9"),
        ("U1", "U1"),
        ("a b", "a b"),
        ("007", "007"),
        ("100.0", "100.0"),
        ("  ", ""),
    ],
)
def test_an_id_is_trimmed_and_composed(text, spelling):
    assert canonical_id(text, is_numeric=False) == spelling


@pytest.mark.parametrize(
    ("text", "spelling"),
    [
        ("100.0", "100"),
        (" 100.00 ", "100"),
        ("-5.0", "-5"),
        ("0.0", "0"),
        ("1e+05", "100000"),
        ("1.23E+02", "123"),
        ("9007199254740991.0", "9007199254740991"),
        ("9007199254740993.0", "9007199254740993.0"),  # a float of several integers
        ("1e+16", "1e+16"),
        ("1.23457E+11", "1.23457E+11"),  # Excel shows six digits of more
        ("1.5", "1.5"),
        ("1.234e+02", "1.234e+02"),
        ("1e5", "1e5"),  # may be hexadecimal
        ("007", "007"),
        ("007.0", "007.0"),
        ("9007199254740993", "9007199254740993"),
        ("Jose\u0301", "Jos\u00e9"),
    ],
)
def test_a_numeric_id_is_an_integer(text, spelling):
    assert canonical_id(text, is_numeric=True) == spelling


@given(ANY_TEXT | NUMBERS, st.booleans())
def test_the_rule_is_idempotent(text, is_numeric):
    spelling = canonical_id(text, is_numeric)

    assert canonical_id(spelling, is_numeric) == spelling


@given(st.integers(-(2**53) + 1, 2**53 - 1))
def test_every_exact_float_is_its_integer(number):
    assert canonical_id(f"{number}.0", is_numeric=True) == str(number)


def test_all_white_space_of_unicode_is_trimmed():
    assert {one for one in map(chr, range(sys.maxunicode + 1)) if one.isspace()} <= set(TRIMMED)


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (["1", "2.0", " 3 "], True),
        (["1e+16"], True),
        (["007"], True),
        (["1", "a"], False),
        (["1.5"], False),
        (["1.0.0"], False),
        ([], False),
    ],
)
def test_ids_are_numeric_if_every_one_is_an_integer(texts, expected):
    assert are_numeric(texts) is expected


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "is blank"),
        ("x" * (MAX_LENGTH + 1), "is longer than 256 characters"),
        ("a\x00b", "holds a control character"),
        ("a\nb", "holds a control character"),
        ("a\ud800", "holds half of a surrogate pair"),
        ("x" * MAX_LENGTH, None),
        ("\U0001f600", None),
        ("1e+16", None),
    ],
)
def test_an_unusable_id_is_named(text, problem):
    assert id_problem(text) == problem


def test_a_numeric_id_with_lost_digits_is_named():
    assert id_problem("1e+16", is_numeric=True) == (
        "is a float whose last digits are lost; write ids as integers or text"
    )
    assert id_problem("10000000000000000", is_numeric=True) is None


@given(st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from(TRIMMED + "\x00\x7fa"), max_size=MAX_LENGTH))
def test_the_pattern_of_requests_accepts_exactly_the_ids_of_files(text):
    if len(canonical_id(text, False)) <= MAX_LENGTH:
        assert bool(re.search(VALID_PATTERN, text)) == (id_problem(canonical_id(text, False)) is None)
