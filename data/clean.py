"""Raw events become typed ones, and each row that cannot is named with its reason."""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np
import pandas as pd

from data.columns import (
    EVENT_ID,
    EVENT_TIME,
    EVENT_TYPE,
    ITEM,
    KNOWN_TIME,
    SESSION,
    USER,
    VALUE,
)
from data.errors import DataError
from data.readers.raw import as_text
from data.schema import Events, blank, faults
from data.times import read_times

DEFAULT_TYPE = "interaction"
UNREADABLE_TIME = "is not a time"
UNREADABLE_NUMBER = "is not a number"


def type_events(raw: pd.DataFrame, time_unit: str, context: Sequence[str]) -> tuple[pd.DataFrame, pd.Series]:
    """Give every column its type.

    Returns:
        The typed events (every column of the schema, and those of `context` that the source has), and why
        rows cannot be used: index of the row -> reason.
    """
    typed = pd.DataFrame(index=raw.index)
    for name in (EVENT_ID, USER, ITEM, SESSION):
        typed[name] = _text(raw, name)
    typed[EVENT_TIME] = _times(raw, EVENT_TIME, time_unit)
    typed[KNOWN_TIME] = _times(raw, KNOWN_TIME, time_unit)
    typed[EVENT_TYPE] = _text(raw, EVENT_TYPE).fillna(DEFAULT_TYPE)
    typed[VALUE] = pd.to_numeric(_filled(raw, VALUE), errors="coerce").astype("float64")
    reasons = _unreadable(raw, typed)
    # Silence about when it was known means: as it happened. An unreadable one is already named above.
    typed[KNOWN_TIME] = typed[KNOWN_TIME].fillna(typed[EVENT_TIME])
    for name in context:
        if name in raw.columns and name not in typed.columns:
            typed[name] = raw[name]
    broken = faults(typed, Events)
    return typed, pd.concat([reasons, broken[~broken.index.isin(reasons.index)]]).sort_index()


def quarantined(raw: pd.DataFrame, reasons: pd.Series, table: str) -> pd.DataFrame:
    """The rows left out: table, source_row, raw (the row as JSON), reason."""
    rows = raw.loc[reasons.index].astype(object)
    rows = rows.where(rows.notna(), None)
    texts = [json.dumps(row, default=str, ensure_ascii=False) for row in rows.to_dict("records")]
    return pd.DataFrame(
        {
            "table": table,
            "source_row": reasons.index.astype("int64"),
            "raw": texts,
            "reason": reasons.to_numpy(),
        }
    )


def refuse_if_none_left(raw: pd.DataFrame, reasons: pd.Series, broken: int) -> None:
    """Raise a DataError with the commonest reason where no row can be used."""
    total = len(raw) + broken
    if len(reasons) < len(raw):
        return
    if reasons.empty:
        raise DataError(f"ingest: none of {total} rows could be taken apart into fields")
    reason, count = reasons.value_counts().index[0], int(reasons.value_counts().iloc[0])
    column, _, fault = reason.partition(" ")
    first = raw.loc[reasons.index[reasons == reason][0], column] if column in raw.columns else None
    plain = first.item() if isinstance(first, np.generic) else first
    shown = f"; first: {plain!r}" if plain is not None and not pd.isna(plain) else ""
    verb = {UNREADABLE_TIME: "read as a time", UNREADABLE_NUMBER: "read as a number"}.get(fault)
    if verb and count == total:
        raise DataError(f"ingest: {column}: none of {total} rows could be {verb}{shown}")
    raise DataError(f"ingest: {column}: none of {total} rows could be used; {count} times it {fault}{shown}")


def _text(raw: pd.DataFrame, name: str) -> pd.Series:
    return as_text(_filled(raw, name))


def _times(raw: pd.DataFrame, name: str, unit: str) -> pd.Series:
    return read_times(_filled(raw, name), unit)


def _filled(raw: pd.DataFrame, name: str) -> pd.Series:
    """The column with blank cells as null; all null where the source lacks it."""
    if name not in raw.columns:
        return pd.Series(None, index=raw.index, dtype=object)
    values = raw[name]
    if values.dtype != object and not isinstance(values.dtype, pd.StringDtype):
        return values
    return values.where(values.notna() & ~blank(values), None)


def _unreadable(raw: pd.DataFrame, typed: pd.DataFrame) -> pd.Series:
    """Cells that hold something, but not what their column wants."""
    reasons = pd.Series(dtype=object)
    for name, says in (
        (EVENT_TIME, UNREADABLE_TIME),
        (KNOWN_TIME, UNREADABLE_TIME),
        (VALUE, UNREADABLE_NUMBER),
    ):
        wrong = typed.index[typed[name].isna() & _filled(raw, name).notna()].difference(reasons.index)
        reasons = pd.concat([reasons, pd.Series(f"{name} {says}", index=wrong, dtype=object)])
    return reasons
