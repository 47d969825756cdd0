"""Read columns of times: epoch numbers, text and datetimes."""

from __future__ import annotations

import pandas as pd
from pandas.api.types import is_datetime64_any_dtype

from data.columns import MICROSECONDS
from data.tables import TIME_DTYPE

EARLIEST = pd.Timestamp("1971-01-01", tz="UTC")  # an earlier event time is an empty or misread field
LATEST = pd.Timestamp("2100-01-01", tz="UTC")

_PER_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}


def read_times(values: pd.Series, unit: str) -> pd.Series:
    """Parse epoch numbers, ISO 8601 text or datetimes as datetime64[us, UTC]; NaT where a value is not a time.

    Times without a zone are UTC. `unit` is s, ms, us or auto (see `guess_unit`).
    """
    if is_datetime64_any_dtype(values):
        return pd.to_datetime(values, utc=True).dt.as_unit("us")
    numbers = pd.to_numeric(values, errors="coerce")
    numeric = numbers.notna()
    result = pd.Series(pd.NaT, index=values.index, dtype=TIME_DTYPE)
    if numeric.any():
        epochs = numbers[numeric]
        result[numeric] = _from_epoch(epochs, guess_unit(epochs) if unit == "auto" else unit)
    # Only text that starts with a year: pandas would read "now" and "today" as the time of this run.
    text = values[~numeric & values.notna()].astype(str).str.strip()
    text = text[text.str.match(r"\d{4}-?\d{2}")]
    if len(text):
        moments = pd.to_datetime(text, utc=True, format="ISO8601", errors="coerce")
        result[text.index] = moments.dt.as_unit("us")
    return result


def guess_unit(numbers: pd.Series) -> str:
    """The unit in which the median of these epoch numbers lies between EARLIEST and LATEST.

    The ranges of the four units do not overlap, so a date after 1971 can be read in only one way.
    """
    median = float(numbers.median())
    for unit, per_second in _PER_SECOND.items():
        if median < LATEST.timestamp() * per_second:
            return unit
    return "ns"


def _from_epoch(numbers: pd.Series, unit: str) -> pd.Series:
    # A float holds the microseconds of every year up to 2255 exactly. What is beyond int64 is out of range anyway.
    scaled = numbers.astype("float64") * (MICROSECONDS / _PER_SECOND[unit])
    return pd.to_datetime(scaled.round().clip(-9e18, 9e18).astype("int64").astype("datetime64[us]"), utc=True)
