"""Read RecBole's atomic files: name.inter, name.user and name.item, tab separated under a header of `field:type`.

Format: https://recbole.io/docs/user_guide/data/atomic_files.html (Zhao et al., CIKM 2021). Nothing is quoted.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from data.columns import ITEM, USER
from data.files import DataError
from data.readers.table import RawTable, broken_lines, header_line, parse_text, read_text

INTERACTIONS = ".inter"
SIDE_SUFFIXES = {USER: ".user", ITEM: ".item"}
TYPES = ("token", "token_seq", "float", "float_seq")
CLASS = "class"  # RecBole's own conversions of MovieLens keep the genres in this field
_NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"


def read_interactions(path: Path) -> RawTable:
    """Read name.inter under its field names. Cells are text; `nan` in a float field is null."""
    text = read_text(path)
    header = header_line(path, text)
    types = _parse_header(path, header)
    table = parse_text(path, text, header, "\t", quoted=False)
    rows = table.rows.set_axis(list(types), axis=1)
    for name in _fields_of_type(types, "float"):
        rows[name] = rows[name].where(rows[name].str.strip().str.lower() != "nan", None)
    return RawTable(path, rows, table.broken, tuple(types), types)


def read_side(path: Path) -> RawTable:
    """Read name.user or name.item. Rows whose float cells are not numbers come back in `broken`."""
    table = read_interactions(path)
    rows, reasons = table.rows, pd.Series(dtype=object)
    for kind, pattern in (("float", _NUMBER), ("float_seq", rf"{_NUMBER}(?: +{_NUMBER})*")):
        for name in _fields_of_type(table.types, kind):
            wrong = rows.index[rows[name].notna() & ~rows[name].fillna("").str.strip().str.fullmatch(pattern)]
            message = "is not a number" if kind == "float" else "is not a list of numbers"
            index = wrong.difference(reasons.index)
            reasons = pd.concat([reasons, pd.Series(f"{name} {message}", index=index, dtype=object)])
    if reasons.empty:
        return table
    raw = rows.loc[reasons.index].fillna("").agg("\t".join, axis=1)
    parts = [part for part in (table.broken, broken_lines(reasons.index, raw, reasons)) if len(part)]
    broken = pd.concat(parts, ignore_index=True)
    return RawTable(path, rows.drop(index=reasons.index), broken, table.header, table.types)


def require_tokens(path: Path, names: Mapping[str, str], types: Mapping[str, str]) -> None:
    """Raise a DataError if ids are not tokens: as floats, 7.0 and 7 would be two ids."""
    for key in (USER, ITEM):
        kind = types.get(names.get(key, ""), "token")
        if kind != "token":
            raise DataError(f"{path}: the field {names[key]!r}, our {key}, has type {kind}; expected token")


def genres_field(types: Mapping[str, str]) -> str | None:
    """The field in which RecBole's MovieLens keeps genres, or None."""
    return CLASS if types.get(CLASS) == "token_seq" else None


def _parse_header(path: Path, header: str) -> dict[str, str]:
    """Field name -> type."""
    types: dict[str, str] = {}
    for field in header.strip("\r\n").split("\t"):
        name, colon, kind = field.strip().rpartition(":")
        if not colon or not name or ":" in name or kind not in TYPES:
            shown = repr(field if len(field) <= 60 else f"{field[:60]}...")
            raise DataError(
                f"{path}: the header holds {shown}; expected field:type, separated by tabs, with a type of "
                f"{', '.join(TYPES)}"
            )
        if name in types:
            raise DataError(f"{path}: the field {name!r} is there twice")
        types[name] = kind
    return types


def _fields_of_type(types: Mapping[str, str], kind: str) -> list[str]:
    return [name for name, declared in types.items() if declared == kind]
