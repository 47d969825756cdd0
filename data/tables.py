"""Data frames as stored tables: times, Parquet files, content hashes, event ids, trait columns."""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import blake2b
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pandas.api.types import is_bool_dtype, is_datetime64_any_dtype, is_numeric_dtype

from data.columns import MICROSECONDS, TRAINING_CONSENT, USER
from data.files import require_file

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
    # A float holds the microseconds of every year up to 2255 exactly. What is beyond int64 is out of range anyway.
    scaled = numbers.astype("float64") * (MICROSECONDS / _PER_SECOND[unit])
    return pd.to_datetime(scaled.round().clip(-9e18, 9e18).astype("int64").astype("datetime64[us]"), utc=True)


def write_table(path: Path, frame: pd.DataFrame) -> None:
    """Write Parquet: text as string even where every value is null, times in UTC microseconds."""
    table = pa.Table.from_pandas(frame, preserve_index=False).replace_schema_metadata(None)
    fields = [pa.field(field.name, _stored_type(field.type)) for field in table.schema]
    pq.write_table(table.cast(pa.schema(fields)), path)


def _stored_type(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_timestamp(kind):
        return pa.timestamp("us", tz="UTC")
    return pa.string() if pa.types.is_null(kind) or pa.types.is_large_string(kind) else kind


def read_table(path: Path, command: str) -> pd.DataFrame:
    """Read a Parquet file that a pipeline stage wrote. If it is missing, a DataError names the `command` to run."""
    require_file(path, command)
    return pd.read_parquet(path)


def trait_columns(users: pd.DataFrame) -> list[str]:
    """Columns of the users table that describe a user to a model: neither the id, nor consent, nor a time."""
    excluded = (USER, TRAINING_CONSENT)
    return [name for name in users.columns if name not in excluded and not is_datetime64_any_dtype(users[name])]


def content_hash(tables: Mapping[str, pd.DataFrame]) -> str:
    """Hash the content of tables: names, values and nulls, rows in their order. Returns 32 hex digits.

    Column order, index, integer or float storage and the file format do not change the hash.
    """
    digest = blake2b(digest_size=16)
    for name in sorted(tables):
        table = tables[name]
        digest.update(f"table {name} {len(table)}\n".encode())
        for column in sorted(table.columns):
            digest.update(f"column {column} ".encode())
            _hash_column(digest, table[column])
    return digest.hexdigest()


def _hash_column(digest, values: pd.Series) -> None:
    nulls = values.isna()
    digest.update(nulls.to_numpy().tobytes())
    if is_datetime64_any_dtype(values):
        digest.update(b"time " + microseconds(values.fillna(pd.Timestamp(0, tz="UTC"))).tobytes())
    elif is_numeric_dtype(values) and not is_bool_dtype(values):
        numbers = values.astype("float64").fillna(0.0).to_numpy() + 0.0  # -0.0 becomes 0.0
        digest.update(b"number " + numbers.tobytes())
    else:
        texts = pa.array(values.where(~nulls, "").astype(str), type=pa.large_string())
        digest.update(b"text " + pc.binary_length(texts).to_numpy().tobytes())
        digest.update("".join(texts.to_pylist()).encode())
