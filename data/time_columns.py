"""Moments, however a file writes them, become UTC microseconds."""

from __future__ import annotations

from datetime import UTC, datetime

import pandas as pd
from pandas.api.types import is_datetime64_any_dtype

from data.columns import MICROSECONDS

DTYPE = pd.DatetimeTZDtype("us", "UTC")
EARLIEST = pd.Timestamp("1971-01-01", tz="UTC")  # an earlier event time is an empty or misread field
LATEST = pd.Timestamp("2100-01-01", tz="UTC")

_PER_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}


def read_times(values: pd.Series, unit: str) -> pd.Series:
    """Epoch numbers, ISO 8601 text and datetimes as datetime64[us, UTC]; NaT where a value is no time.

    A time that names no zone is UTC. `unit` is s, ms, us or auto (see `magnitude`).
    """
    if is_datetime64_any_dtype(values):
        return pd.to_datetime(values, utc=True).dt.as_unit("us")
    numbers = pd.to_numeric(values, errors="coerce")
    numeric = numbers.notna()
    result = pd.Series(pd.NaT, index=values.index, dtype=DTYPE)
    if numeric.any():
        known = numbers[numeric]
        result[numeric] = _from_epoch(known, magnitude(known) if unit == "auto" else unit)
    # Four digits first: pandas would read "now" and "today" as the moment of this run.
    text = values[~numeric & values.notna()].astype(str).str.strip()
    text = text[text.str.match(r"\d{4}-?\d{2}")]
    if len(text):
        moments = pd.to_datetime(text, utc=True, format="ISO8601", errors="coerce")
        result[text.index] = moments.dt.as_unit("us")
    return result


def magnitude(numbers: pd.Series) -> str:
    """The unit in which the median of these epoch numbers lies between EARLIEST and LATEST.

    The four ranges do not overlap, so a date after 1971 has one reading only.
    """
    middle = float(numbers.median())
    for unit, per_second in _PER_SECOND.items():
        if middle < LATEST.timestamp() * per_second:
            return unit
    return "ns"


def microseconds(times: pd.Series) -> pd.Series:
    """int64 microseconds since 1970 of a datetime column without nulls."""
    return times.dt.as_unit("us").astype("int64")


def iso(time_us: int) -> str:
    """ISO 8601 text of a moment, e.g. 1998-03-27T22:53:10+00:00."""
    seconds, rest = divmod(time_us, MICROSECONDS)
    return datetime.fromtimestamp(seconds, UTC).replace(microsecond=rest).isoformat()


def from_datetime(moment: datetime) -> int:
    """Integer microseconds of a setting's datetime; one that names no zone is UTC."""
    aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    since = aware - datetime(1970, 1, 1, tzinfo=UTC)
    return (since.days * 86_400 + since.seconds) * MICROSECONDS + since.microseconds


def _from_epoch(numbers: pd.Series, unit: str) -> pd.Series:
    if numbers.dtype.kind != "i":
        numbers = numbers.astype("float64").clip(-9e18, 9e18)  # infinity is out of range, like any such number
    per_second = _PER_SECOND[unit]
    if per_second > MICROSECONDS:
        scaled = numbers // (per_second // MICROSECONDS)
    else:
        scale = MICROSECONDS // per_second
        limit = 9 * 10**18 // scale  # beyond it int64 overflows; such a time is out of range anyway
        scaled = numbers.clip(-limit, limit) * scale
    whole = scaled.round().clip(-9e18, 9e18) if scaled.dtype.kind == "f" else scaled
    return pd.to_datetime(whole.astype("int64").astype("datetime64[us]"), utc=True)
