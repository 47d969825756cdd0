"""Combine the parts of one table: their columns under one type each, their rows numbered through."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from pandas.api.types import is_datetime64_any_dtype, is_integer_dtype

from data.files import DataError
from data.readers.table import RawTable, list_names, to_text
from data.tables import TIME_DTYPE


def concatenate(path: Path, tables: Sequence[RawTable]) -> RawTable:
    """Parts as one table, with rows numbered through. Raises a DataError if the columns of two of them differ."""
    widest = max(tables, key=lambda table: len(table.header))
    for table in tables:
        missing = set(table.header) ^ set(widest.header)
        if missing and not (
            table.found["format"] == widest.found["format"]
            and set(table.header) < set(widest.header)
            and table.found["format"] in ("JSON", "parquet")
        ):
            shown = "; ".join(f"{each.found['files'][0]} holds {list_names(each.header)}" for each in (widest, table))
            raise DataError(f"{path} holds several tables: {shown}; name the one with the events in ingest.path")
    starts = np.cumsum([0, *(table.found["rows"] for table in tables)])
    columns = {
        name: _unify(
            [
                table.rows[name] if name in table.rows else pd.Series(None, table.rows.index, dtype=object)
                for table in tables
            ]
        )
        for name in widest.header
    }
    index = np.concatenate([table.rows.index + start for table, start in zip(tables, starts, strict=False)])
    rows = pd.DataFrame(columns).set_axis(pd.Index(index, name="source_row", dtype="int64"))
    broken = [
        table.broken.assign(source_row=table.broken["source_row"] + start)
        for table, start in zip(tables, starts, strict=False)
    ]
    found = dict(widest.found)
    for name in ("format", "compression", "encoding", "delimiter", "quote"):
        if name in found:
            distinct = dict.fromkeys(str(table.found.get(name)) for table in tables)
            found[name] = found[name] if len(distinct) == 1 else ", ".join(distinct)
    found |= {
        "files": [str(table.found["files"][0]) for table in tables],
        "rows_per_file": [table.found["rows"] for table in tables],
        "rows": int(starts[-1]),
    }
    types = {name: kind for table in tables for name, kind in table.types.items()}
    return RawTable(path, rows, pd.concat(broken, ignore_index=True), widest.header, types, found)


def _unify(parts: Sequence[pd.Series]) -> pd.Series:
    """Parts of a column under one index: exact integers, times in UTC, floats; as text where they differ."""
    filled = [part for part in parts if part.notna().any()]
    if all(part.dtype == filled[0].dtype for part in filled):
        kind = filled[0].dtype if filled else np.dtype(object)
    elif all(is_integer_dtype(part) for part in filled):
        kind = pd.Int64Dtype()
    elif all(is_datetime64_any_dtype(part) for part in filled):
        kind = TIME_DTYPE
        parts = [pd.to_datetime(part, utc=True).dt.as_unit("us") if part.notna().any() else part for part in parts]
    else:
        kind, parts = np.dtype(object), [to_text(part) for part in parts]
    if kind.kind in "iu" and len(filled) < len(parts):
        kind = pd.Int64Dtype()
    empty = [pd.Series(pd.NA if kind == pd.Int64Dtype() else None, part.index, dtype=kind) for part in parts]
    known = [part.astype(kind) if part.notna().any() else none for part, none in zip(parts, empty, strict=True)]
    return pd.concat(known, ignore_index=True)


def locate_rows(quarantine: pd.DataFrame, found: Mapping[str, Mapping[str, Any]]) -> pd.DataFrame:
    """Number the quarantined rows of tables in several files by their own file, and add the column `file`."""
    if all(len(facts.get("files", [])) < 2 for facts in found.values()):
        return quarantine
    located = quarantine.assign(file=None)
    for table, facts in found.items():
        mine = (quarantine["table"] == table).to_numpy()
        if len(facts.get("files", [])) < 2:
            located.loc[mine, "file"] = next(iter(facts.get("files", [])), None)
            continue
        starts = np.cumsum([0, *facts["rows_per_file"]])
        file = np.searchsorted(starts, quarantine.loc[mine, "source_row"], side="left") - 1
        located.loc[mine, "file"] = np.array(facts["files"], dtype=object)[file]
        located.loc[mine, "source_row"] -= starts[file]
    return located
