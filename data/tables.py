"""Data frames as stored tables: Parquet files, content hashes, trait columns, times as integers."""

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

from data.columns import TRAINING_CONSENT, USER
from data.files import require_file

TIME_DTYPE = pd.DatetimeTZDtype("us", "UTC")


def microseconds(times: pd.Series) -> np.ndarray:
    """(n,) int64 microseconds since 1970 of a datetime column without nulls."""
    return times.dt.as_unit("us").astype("int64").to_numpy()


def timestamps(times_us: np.ndarray) -> pd.DatetimeIndex:
    """Convert microseconds since 1970 to UTC timestamps of microsecond resolution."""
    return pd.DatetimeIndex(np.asarray(times_us).astype("datetime64[us]")).tz_localize("UTC")


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
