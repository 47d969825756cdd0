"""Pandera models of events, users and items, and what is said of a row that breaks them."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pandera.pandas as pa
from pandera.typing import Series

from data.columns import EVENT_TIME, EVENT_TYPE, ITEM, KNOWN_TIME, USER, VALUE
from data.time_columns import DTYPE, EARLIEST, LATEST

RANGE = f"is out of range ({EARLIEST:%Y} to {LATEST:%Y})"


def blank(values: pd.Series) -> pd.Series:
    """Which cells are text without a single visible character; looks at each distinct text once."""
    spaces = [text for text in values.unique() if isinstance(text, str) and not text.strip()]
    return values.isin(spaces) if spaces else pd.Series(False, index=values.index)


class Events(pa.DataFrameModel):
    """One row per event. Further columns (event_id, session_id, context) are free."""

    user_id: Series[str] = pa.Field(nullable=False)
    item_id: Series[str] = pa.Field(nullable=False)
    event_time: Series[DTYPE] = pa.Field(nullable=False)
    known_time: Series[DTYPE] = pa.Field(nullable=False)
    event_type: Series[str] = pa.Field(nullable=False)
    value: Series[float] = pa.Field(nullable=True)

    @pa.check(f"^({USER}|{ITEM}|{EVENT_TYPE})$", regex=True, name="is blank")
    def _not_blank(cls, ids: pd.Series) -> pd.Series:
        return ~blank(ids)

    @pa.check(f"^({EVENT_TIME}|{KNOWN_TIME})$", regex=True, name=RANGE)
    def _in_range(cls, times: pd.Series) -> pd.Series:
        return (times >= EARLIEST) & (times < LATEST)

    @pa.check(VALUE, name="is not finite")
    def _finite(cls, values: pd.Series) -> pd.Series:
        return pd.Series(np.isfinite(values), index=values.index)

    @pa.dataframe_check(name=f"{KNOWN_TIME} is before {EVENT_TIME}")
    def _known_after_it_happened(cls, events: pd.DataFrame) -> pd.Series:
        return ~(events[KNOWN_TIME] < events[EVENT_TIME])


class Users(pa.DataFrameModel):
    """One row per user; further columns are traits."""

    user_id: Series[str] = pa.Field(nullable=False)

    @pa.check(USER, name="is blank")
    def _not_blank(cls, ids: pd.Series) -> pd.Series:
        return ~blank(ids)

    @pa.check(USER, name="occurs twice")
    def _once(cls, ids: pd.Series) -> pd.Series:
        return ~ids.duplicated()


class Items(pa.DataFrameModel):
    """One row per item; further columns describe it."""

    item_id: Series[str] = pa.Field(nullable=False)

    @pa.check(ITEM, name="is blank")
    def _not_blank(cls, ids: pd.Series) -> pd.Series:
        return ~blank(ids)

    @pa.check(ITEM, name="occurs twice")
    def _once(cls, ids: pd.Series) -> pd.Series:
        return ~ids.duplicated()


_SAYS = {"not_nullable": "is blank"}


def faults(frame: pd.DataFrame, model: type[pa.DataFrameModel]) -> pd.Series:
    """Why rows break the model: index of the broken rows -> `event_time is blank`; empty if none does.

    A row with several faults is told by the first of them, in the order of the columns.
    """
    try:
        model.validate(frame, lazy=True)
    except pa.errors.SchemaErrors as errors:
        cases = errors.failure_cases
    else:
        return pd.Series(dtype=object)
    if cases["index"].isna().any():  # the frame as a whole is wrong, which is a fault of ours
        raise TypeError(f"not a frame of {model.__name__}: {cases.iloc[0].to_dict()}")
    said = cases["check"].map(_SAYS).fillna(cases["check"])
    whole_frame = cases["schema_context"] == "DataFrameSchema"
    reasons = said.where(whole_frame, cases["column"].astype(str) + " " + said)
    rank = cases["column"].map({name: at for at, name in enumerate(frame.columns)}).where(~whole_frame)
    order = rank.fillna(len(frame.columns)).to_numpy().argsort(kind="stable")
    first = pd.Series(reasons.to_numpy()[order], index=cases["index"].to_numpy()[order])
    return first[~first.index.duplicated()]
