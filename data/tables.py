"""Data frames as stored tables: Parquet files, content hashes, event ids, trait columns."""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import blake2b
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pandas.api.types import is_bool_dtype, is_datetime64_any_dtype, is_numeric_dtype, is_object_dtype

from data.columns import EVENT_TIME, EVENT_TYPE, ITEM, TRAINING_CONSENT, USER, event_id
from data.files import require_file
from data.time_columns import microseconds


def write_table(path: Path, frame: pd.DataFrame) -> None:
    """Write Parquet: text as string even where every value is null, times in UTC microseconds."""
    fields = [pa.field(str(name), _arrow_type(frame[name])) for name in frame.columns]
    table = pa.Table.from_pandas(frame, schema=pa.schema(fields), preserve_index=False)
    pq.write_table(table.replace_schema_metadata(None), path)


def read_table(path: Path, command: str) -> pd.DataFrame:
    """Read a Parquet file that a pipeline stage wrote.

    Raises:
        DataError: the file does not exist; the message names `command`, which creates it.
    """
    require_file(path, command)
    return pd.read_parquet(path)


def _arrow_type(values: pd.Series) -> pa.DataType:
    if is_datetime64_any_dtype(values):
        return pa.timestamp("us", tz="UTC")
    if is_object_dtype(values) and pd.api.types.infer_dtype(values, skipna=True) not in ("string", "empty"):
        return pa.array(values, from_pandas=True).type
    if is_object_dtype(values) or isinstance(values.dtype, pd.StringDtype):
        return pa.string()
    return pa.from_numpy_dtype(values.dtype) if hasattr(values.dtype, "kind") else pa.string()


def trait_columns(users: pd.DataFrame) -> list[str]:
    """Columns of the users table that describe a user to a model: neither the id, nor consent, nor a time."""
    excluded = (USER, TRAINING_CONSENT)
    return [name for name in users.columns if name not in excluded and not is_datetime64_any_dtype(users[name])]


def event_ids(events: pd.DataFrame) -> list[str]:
    """The default event id of each row; see `data.columns.event_id`."""
    columns = (events[USER], events[ITEM], microseconds(events[EVENT_TIME]), events[EVENT_TYPE])
    return [event_id(*row) for row in zip(*(column.tolist() for column in columns), strict=True)]


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
