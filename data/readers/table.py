"""A table as its file holds it: rows, broken lines and what was found; and the project's names for its columns."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd
from pandas.api.types import infer_dtype

from config.params import TableFormat
from data import columns
from data.files import DataError

SIDE_COLUMNS = (columns.TITLE, columns.GENRES, columns.DESCRIPTION, columns.RELEASE_TIME, columns.TRAINING_CONSENT)
MAX_SHOWN = 40  # column names, and characters of a name, that an error message repeats

# Compared in lower case without punctuation, and without RecBole's ":token".
ALIASES = {
    columns.EVENT_ID: "eventid messageid",
    columns.USER: "userid user uid customerid customer visitorid memberid reviewerid userpseudoid",
    columns.ITEM: "itemid item iid movieid productid trackid articleid bookid songid asin sku videoid businessid parentasin",
    columns.EVENT_TIME: (
        "eventtime timestamp time ts datetime date eventtimestamp unixtimestamp ratingtimestamp unixreviewtime tdat"
    ),
    columns.KNOWN_TIME: "knowntime receivedat ingestedat",
    columns.EVENT_TYPE: "eventtype event eventname action type behavior behaviour",
    columns.VALUE: "value rating score stars overall",
    columns.SESSION: "sessionid session usersession",
    columns.TITLE: "title movietitle name itemname productname",
    columns.GENRES: "genres genre categories category",
    columns.DESCRIPTION: "description summary overview abstract",
    columns.RELEASE_TIME: "releasetime releasedate publishedat published",
    columns.TRAINING_CONSENT: "consenttraining trainingconsent",
}


def broken_lines(source_rows: Sequence[int] = (), raw: Sequence[str] = (), reasons: Sequence[str] = ()) -> pd.DataFrame:
    """Lines that could not be parsed: source_row, raw (the text), reason."""
    rows = pd.Series(list(source_rows), dtype="int64")
    return pd.DataFrame({"source_row": rows, "raw": list(raw), "reason": list(reasons)})


@dataclass(frozen=True)
class RawTable:
    """Rows under the file's own column names. The index is the row's number in the file, from 1."""

    path: Path
    rows: pd.DataFrame
    broken: pd.DataFrame = field(default_factory=broken_lines)
    header: tuple[str, ...] = ()  # the file's own column names; () if the format has none
    types: Mapping[str, str] = field(default_factory=dict)  # column -> RecBole type, if the format declares it
    # What the reader found or used: files, rows_per_file, format, compression, encoding, delimiter, quote, rows (read,
    # with broken ones)
    found: Mapping[str, Any] = field(default_factory=dict)
    items: pd.DataFrame | None = None  # what the rows of events say about items: item_id and traits
    users: pd.DataFrame | None = None  # and what they say about users


def to_text(values: pd.Series) -> pd.Series:
    """Convert cells to text, null where empty: 7 and 7.0 become "7", "007" stays."""
    filled = values.notna()
    if values.dtype.kind == "f" and (values[filled] % 1 == 0).all() and (values[filled].abs() < 2**53).all():
        values = values.astype("Int64")  # integers are floats if a file leaves one out; larger ones lost digits
    text = values
    if values.dtype != object or infer_dtype(values, skipna=True) != "string":
        text = values.astype("string").astype(object)
    return text.where(filled & (text != ""), None)


def number_rows(frame: pd.DataFrame) -> pd.DataFrame:
    """Index rows by their number, from 1."""
    return frame.set_axis(pd.RangeIndex(1, len(frame) + 1, name="source_row"))


def apply_na_values(table: RawTable, table_format: TableFormat, ids: Sequence[str], text: Collection[str]) -> RawTable:
    """Empty the cells that hold one of `na_values`, except in the columns `text`.

    A row with one of them as an id is moved to `broken`.
    """
    rows, is_bad, reasons = table.rows, pd.Series(False, index=table.rows.index), []
    changed, na_cells = {}, {}
    for name in rows.columns:
        if name in text or rows[name].dtype != object:
            continue
        tokens = [
            cell for cell in rows[name].unique() if isinstance(cell, str) and cell.strip() in table_format.na_values
        ]
        is_na = rows[name].isin(tokens)
        if name in ids:
            bad = rows[name][is_na & ~is_bad]
            reasons.append(bad.map(f"{name} is {{!r}}, one of {table_format.key}.na_values".format))
            is_bad |= is_na
        elif is_na.any():
            changed[name] = rows[name].mask(is_na, None)
            na_cells[name] = int(is_na.sum())
    if changed:
        table = replace(table, found={**table.found, "na_cells": na_cells})
        rows = rows.assign(**changed)
    if not is_bad.any():
        return replace(table, rows=rows)
    bad_rows = table.rows[is_bad]
    raw = [json.dumps(row, default=str, ensure_ascii=False) for row in bad_rows.to_dict("records")]
    broken = broken_lines(list(bad_rows.index), raw, list(pd.concat(reasons).loc[bad_rows.index]))
    return replace(table, rows=rows[~is_bad], broken=pd.concat([table.broken, broken], ignore_index=True))


# Column mapping


def check_mapping(mapping: Mapping[str, str], context: Sequence[str]) -> None:
    """Raise a DataError if `ingest.columns` names a column that the project does not have."""
    known = (*columns.EVENT_COLUMNS, *SIDE_COLUMNS, *context)
    for name in mapping:
        if name not in known:
            raise DataError(f"ingest.columns.{name} is none of our columns; they are {', '.join(known)}")


def map_columns(
    table: RawTable, names: Sequence[str], required: Sequence[str], mapping: Mapping[str, str]
) -> dict[str, str]:
    """Find the project's columns in a table: by `mapping`, by name, or by alias.

    Returns the project's name -> the table's name, for those of `names` that the table has. Raises DataError if a
    mapped or required column is missing, or an alias is ambiguous.
    """
    header = list(table.rows.columns)
    mapped = {name: mapping[name] for name in names if name in mapping}
    found = {}
    for name in names:
        if name in mapped:
            matches = [column for column in header if column == mapped[name]]
            if not matches:
                raise DataError(
                    f"{table.path}: ingest.columns.{name} is {mapped[name]!r}; the file holds {list_names(header)}"
                )
        elif name in header:
            matches = [name]
        else:
            aliases = ALIASES.get(name, "").split()
            matches = [column for column in header if _plain(column) in aliases and column not in mapped.values()]
        if len(matches) > 1:
            choice = " or ".join(map(repr, matches))
            raise DataError(f"{table.path}: {name} may be {choice}; say which in params.yaml: ingest.columns.{name}")
        if matches:
            found[name] = matches[0]
        elif name in required:
            raise DataError(
                f"{table.path}: no column {name}; it holds {list_names(header)}; say which one it is in params.yaml: "
                f"ingest.columns: {{{name}: ...}}"
            )
    return found


def list_names(names: Sequence[str]) -> str:
    shown = [repr(name if len(name) <= MAX_SHOWN else f"{name[:MAX_SHOWN]}...") for name in map(str, names)]
    rest = [f"{len(shown) - MAX_SHOWN} more"] if len(shown) > MAX_SHOWN else []
    return ", ".join([*shown[:MAX_SHOWN], *rest])


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", str(name).split(":")[0].lower())
