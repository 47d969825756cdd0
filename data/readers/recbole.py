"""RecBole's atomic files: name.inter, name.user and name.item, tab separated under a header of `field:type`.

Format: https://recbole.io/docs/user_guide/data/atomic_files.html (Zhao et al., CIKM 2021). Nothing is quoted.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from data.columns import ITEM, USER
from data.errors import DataError
from data.readers.raw import Table, no_rows, read_text
from data.readers.table import first_filled_line, parse

INTERACTIONS = ".inter"
SIDES = {USER: ".user", ITEM: ".item"}
TYPES = ("token", "token_seq", "float", "float_seq")
CLASS = "class"  # what RecBole's own conversions of MovieLens call the genres
_NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"


def read_interactions(path: Path) -> Table:
    """The rows of name.inter under its field names; cells are text, and `nan` in a float is nothing."""
    text = read_text(path)
    header = first_filled_line(path, text)
    types = _types(path, header)
    table = parse(path, text, header, "\t", quoted=False)
    rows = table.rows.set_axis(list(types), axis=1)
    for name in _fields(types, "float"):
        rows[name] = rows[name].where(rows[name].str.strip().str.lower() != "nan", None)
    return Table(path, rows, table.broken, tuple(types), types)


def read_side(path: Path) -> Table:
    """The rows of name.user or name.item; those whose float cells hold no numbers come back in `broken`."""
    table = read_interactions(path)
    rows, reasons = table.rows, pd.Series(dtype=object)
    for kind, form in (("float", _NUMBER), ("float_seq", rf"{_NUMBER}(?: +{_NUMBER})*")):
        for name in _fields(table.types, kind):
            wrong = rows.index[rows[name].notna() & ~rows[name].fillna("").str.strip().str.fullmatch(form)]
            fault = "is not a number" if kind == "float" else "is not a list of numbers"
            fresh = wrong.difference(reasons.index)
            reasons = pd.concat([reasons, pd.Series(f"{name} {fault}", index=fresh, dtype=object)])
    return Table(path, rows.drop(index=reasons.index), _broken(table, reasons), table.header, table.types)


def require_tokens(path: Path, names: Mapping[str, str], types: Mapping[str, str]) -> None:
    """Refuse ids of another type: 7.0 and 7 would be two of them."""
    for ours in (USER, ITEM):
        kind = types.get(names.get(ours, ""), "token")
        if kind != "token":
            raise DataError(f"{path}: the field {names[ours]!r}, our {ours}, has type {kind}; expected token")


def genres_field(types: Mapping[str, str]) -> str | None:
    """The field that RecBole's MovieLens keeps genres in, where no name tells it."""
    return CLASS if types.get(CLASS) == "token_seq" else None


def _types(path: Path, header: str) -> dict[str, str]:
    """Field name -> type; a DataError names the first field that is none."""
    types: dict[str, str] = {}
    for field in header.strip("\r\n").split("\t"):
        name, colon, kind = field.strip().rpartition(":")
        if not colon or not name or ":" in name or kind not in TYPES:
            found = repr(field if len(field) <= 60 else f"{field[:60]}...")
            raise DataError(f"{path}: the header holds {found}; expected field:type, apart by tabs, with a type of "
                            f"{', '.join(TYPES)}")  # fmt: skip
        if name in types:
            raise DataError(f"{path}: the field {name!r} is there twice")
        types[name] = kind
    return types


def _fields(types: Mapping[str, str], kind: str) -> list[str]:
    return [name for name, found in types.items() if found == kind]


def _broken(table: Table, reasons: pd.Series) -> pd.DataFrame:
    """Lines that could not be taken apart, and those whose cells are not of their type."""
    if reasons.empty:
        return table.broken
    raw = table.rows.loc[reasons.index].fillna("").agg("\t".join, axis=1)
    wrong = pd.DataFrame(
        {"source_row": reasons.index.astype("int64"), "raw": raw.to_numpy(), "reason": reasons.to_numpy()}
    )
    parts = [part for part in (table.broken, wrong) if len(part)]
    return pd.concat(parts, ignore_index=True) if parts else no_rows()
