"""Read the cells of side tables: multi-valued ones, numbers and flags. What is changed on the way comes back as a note."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterable, Sequence
from typing import Any

import pandas as pd

from data.readers.table import to_text

SEPARATOR = "|"  # between the values of a stored cell
SEPARATORS = "|;,"  # of files, in the order in which they are looked for
MIN_SEPARATOR_SHARE = 0.05  # of the cells with a separator; a rarer one is part of a name
MIN_NUMBER_SHARE = 0.9  # of the cells of a numeric column
MAX_NUMBER = 1e100  # squares of larger numbers are beyond what a float holds
NAME_KEYS = ("name", "title", "label", "id")  # of a value that is an object, such as {"id": 18, "name": "Drama"}

_WRAPPED = re.compile(r"^(['\"])(.*)\1$", re.DOTALL)
_QUOTED = re.compile(r"'([^']*)'|\"([^\"]*)\"")
# numpy writes ['Drama' 'Comedy'], without commas; Python would join the two.
_ARRAY = re.compile(r"\[\s*(?:'[^']*'|\"[^\"]*\")(?:\s+(?:'[^']*'|\"[^\"]*\"))+\s*\]")
_FORMATTED = re.compile(r"\W{0,3}[0-9][0-9.,' \u00a0\u202f]*\W{0,3}")  # 1,234.50 or 12,5 or $9.99 or 45%

Read = tuple[pd.Series, str | None]  # the column, and a note on what was changed


def join_values(cells: pd.Series, is_separated: bool) -> Read:
    """Write multi-valued cells as Drama|Comedy, in the order of the file and each value once.

    A cell may be a list as JSON, Python or numpy write it, or an object or a vector of flags. If `is_separated`, text is
    split at the separator of the column. A column of embeddings has no value.
    """
    texts = {text: text.strip() for text in cells.dropna().unique()}
    lists = {text: found for text, cell in texts.items() if (found := parse_list(cell)) is not None}
    if not lists and not is_separated:
        return cells, None
    if len(lists) < len(texts) and not is_separated:
        return cells, None
    if any(isinstance(value, float) and value % 1 for values in lists.values() for value in values):
        return pd.Series([None] * len(cells), cells.index, dtype=object), "lists of fractions are not read"
    notes = ["lists"] if lists else []
    if _are_flags(list(lists.values())):
        lists = {text: [number for number, flag in enumerate(flags, 1) if flag] for text, flags in lists.items()}
        notes = ["flags, named by their position"]
    separator = find_separator([cell for text, cell in texts.items() if text not in lists])
    if separator is not None:
        notes.append(f"separated by {separator!r}")
    parts = {text: [_value_text(value) for value in one] for text, one in lists.items()}
    for text, cell in texts.items():
        if text not in parts:
            mark = SEPARATOR if SEPARATOR in cell else separator
            parts[text] = cell.split(mark) if mark else [cell]
    escaped = sum(SEPARATOR in part for text in lists for part in parts[text])
    if escaped:
        notes.append(f"'|' within {escaped} values is written as '/'")
    joined = {text: _join(one) for text, one in parts.items()}
    result = cells.map(joined).astype(object)
    return result.where(result.notna(), None), ", ".join(notes) or None


def parse_list(text: str) -> list[Any] | None:
    """The values of a list in brackets; None for other text."""
    if text[:1] + text[-1:] not in ("[]", "()", "{}"):
        return None
    if _ARRAY.fullmatch(text):
        return [one or other for one, other in _QUOTED.findall(text)]
    value: Any = None
    for parse in (json.loads, ast.literal_eval):
        try:
            value = parse(text)
            break
        except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
            continue
    else:
        return text[1:-1].split(",") if text[0] == "[" else None
    if isinstance(value, dict):
        return [name for name, flag in value.items() if flag] if _are_zeros_and_ones(value.values()) else None
    if isinstance(value, set):
        return sorted(value, key=str)
    return list(value) if isinstance(value, list | tuple) else None


def find_separator(texts: Sequence[str]) -> str | None:
    """The separator of a column: the first of | ; , that is not rare among its cells with one."""
    found = [text for text in texts if any(mark in text for mark in SEPARATORS)]
    counts = {mark: sum(mark in text for text in found) for mark in SEPARATORS}
    return next((mark for mark, count in counts.items() if count and count >= MIN_SEPARATOR_SHARE * len(found)), None)


def read_trait(cells: pd.Series) -> Read:
    """Numbers if nearly every cell is one; else text, trimmed, as are codes with leading zeros.

    Cells that are no numbers, infinite or huge have no value then.
    """
    text = to_text(cells).astype("string").str.strip()
    text = text.mask(text == "", None)
    numbers = pd.to_numeric(text, errors="coerce").astype("float64")
    filled, is_number = text.notna(), numbers.notna()
    if not filled.any():
        return to_text(cells), None
    is_code = bool(text.str.match(r"0\d").any())
    if is_code or is_number.sum() < MIN_NUMBER_SHARE * filled.sum():
        if text[filled].str.lower().isin(["true", "false"]).all():
            text = text.str.capitalize()
        note = None
        if text[filled].str.fullmatch(_FORMATTED).mean() >= MIN_NUMBER_SHARE:
            odd = text.str.match(r"0\d").fillna(False) if is_code else filled & ~is_number
            note = f"kept as text: {text[odd].iloc[0]!r} is no plain number"
        return text.astype(object).where(filled, None), note
    is_huge = numbers.abs() > MAX_NUMBER
    notes = [
        f"{int(some.sum())} without value: {what}, such as {text[some].iloc[0]!r}"
        for some, what in (
            (filled & ~is_number, "no number"),
            (is_huge, f"infinite or beyond {MAX_NUMBER:g}"),
        )
        if some.any()
    ]
    return numbers.mask(is_huge), "; ".join(notes) or None


def _are_flags(lists: Sequence[list[Any]]) -> bool:
    """Whether lists of one length hold nothing but 0 and 1."""
    return len({len(values) for values in lists}) == 1 and len(lists[0]) > 1 and all(map(_are_zeros_and_ones, lists))


def _are_zeros_and_ones(values: Iterable[Any]) -> bool:
    return all(isinstance(value, int | float) and value in (0, 1) for value in values)


def _value_text(value: Any) -> str:
    if isinstance(value, dict):
        value = next((value[key] for key in NAME_KEYS if value.get(key) is not None), json.dumps(value))
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return "" if value is None else str(value)


def _join(values: Sequence[str]) -> str | None:
    trimmed = (_WRAPPED.sub(r"\2", value.strip()).strip().replace(SEPARATOR, "/") for value in values)
    return SEPARATOR.join(dict.fromkeys(filter(None, trimmed))) or None
