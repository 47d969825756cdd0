"""Read RecBole's atomic files: name.inter, name.user and name.item, tab separated under a header of `field:type`.

Format: https://recbole.io/docs/user_guide/data/atomic_files.html (Zhao et al., CIKM 2021). Nothing is quoted.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from config.params import TableFormat
from data.columns import ITEM, USER
from data.files import DataError
from data.readers.delimited import header_line, read_delimited
from data.readers.encodings import decode
from data.readers.packed import list_parts
from data.readers.table import RawTable, broken_lines

INTERACTIONS = ".inter"
SIDE_SUFFIXES = {USER: ".user", ITEM: ".item"}
TYPES = ("token", "token_seq", "float", "float_seq")
GENRES_FIELD = "class"  # RecBole's own conversions of MovieLens keep the genres in this field


def read_atomic_file(path: Path, table_format: TableFormat) -> RawTable:
    """Read an atomic file under its field names. Cells are text; `nan` in a float field is null."""
    part = list_parts(path)[0]
    content, encoding = decode(str(part), part.read(), table_format)
    types = _parse_header(path, header_line(str(part), content))
    plain = table_format.model_copy(update={"delimiter": "\t", "quote": None})
    frame, broken, _ = read_delimited(str(part), content, encoding, plain)
    rows = frame.set_axis(list(types), axis=1)
    for name, kind in types.items():
        if kind == "float":
            rows[name] = rows[name].where(rows[name].str.strip().str.lower() != "nan", None)
    found = part.describe("recbole", len(rows) + len(broken), encoding=encoding, delimiter="\t")
    return RawTable(path, rows, broken_lines(*zip(*broken, strict=True)), tuple(types), types, found)


def require_tokens(path: Path, names: Mapping[str, str], types: Mapping[str, str]) -> None:
    """Raise a DataError if ids are not tokens: as floats, 7.0 and 7 would be two ids."""
    for key in (USER, ITEM):
        kind = types.get(names.get(key, ""), "token")
        if kind != "token":
            raise DataError(f"{path}: the field {names[key]!r}, our {key}, has type {kind}; expected token")


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
