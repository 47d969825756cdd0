"""Columns of times: parse any common notation into UTC microseconds, and convert to and from integers."""

from __future__ import annotations

import numpy as np
import pandas as pd
from pandas.api.types import is_datetime64_any_dtype

from data.columns import MICROSECONDS

TIME_DTYPE = pd.DatetimeTZDtype("us", "UTC")
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


def microseconds(times: pd.Series) -> np.ndarray:
    """(n,) int64 microseconds since 1970 of a datetime column without nulls."""
    return times.dt.as_unit("us").astype("int64").to_numpy()


def timestamps(times_us: np.ndarray) -> pd.DatetimeIndex:
    """Convert microseconds since 1970 to UTC timestamps of microsecond resolution."""
    return pd.DatetimeIndex(np.asarray(times_us).astype("datetime64[us]")).tz_localize("UTC")


def _from_epoch(numbers: pd.Series, unit: str) -> pd.Series:
    if numbers.dtype.kind != "i":
        numbers = numbers.astype("float64").clip(-9e18, 9e18)  # infinity is out of range, as any such number
    per_second = _PER_SECOND[unit]
    if per_second > MICROSECONDS:
        scaled = numbers // (per_second // MICROSECONDS)
    else:
        scale = MICROSECONDS // per_second
        limit = 9 * 10**18 // scale  # int64 overflows beyond it; such a time is out of range anyway
        scaled = numbers.clip(-limit, limit) * scale
    whole = scaled.round().clip(-9e18, 9e18) if scaled.dtype.kind == "f" else scaled
    return pd.to_datetime(whole.astype("int64").astype("datetime64[us]"), utc=True)
