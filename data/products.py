"""A folder of products appears whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from pandas.api.types import is_datetime64_any_dtype, is_object_dtype

from data.errors import DataError


@contextmanager
def replacing(folder: Path) -> Iterator[Path]:
    """A new empty folder that takes the place of `folder` when the block ends without an error.

    A run that fails or is killed inside the block leaves the earlier product as it was.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial, old = (folder.parent / f".{folder.name}.{state}" for state in ("partial", "old"))
    for leftover in (partial, old):
        shutil.rmtree(leftover, ignore_errors=True)
    partial.mkdir()
    try:
        yield partial
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    if folder.exists():
        os.replace(folder, old)
    os.replace(partial, folder)
    shutil.rmtree(old, ignore_errors=True)


def write_table(frame: pd.DataFrame, path: Path) -> None:
    """Write Parquet: text as string even where every value is null, times in UTC microseconds."""
    fields = [pa.field(str(name), _arrow_type(frame[name])) for name in frame.columns]
    table = pa.Table.from_pandas(frame, schema=pa.schema(fields), preserve_index=False)
    pq.write_table(table.replace_schema_metadata(None), path)


def read_table(path: Path, made_by: str) -> pd.DataFrame:
    """Read a stage's Parquet file.

    Raises:
        DataError: it is not there; `made_by` is the command that makes it.
    """
    if not path.is_file():
        raise DataError(f"{path} does not exist; run {made_by} first")
    return pd.read_parquet(path)


def write_json(value: Any, path: Path) -> None:
    """Write JSON that a person can read and git can compare."""
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def read_json(path: Path, made_by: str) -> Any:
    """Read a stage's JSON file; a DataError names the command that makes a missing one."""
    if not path.is_file():
        raise DataError(f"{path} does not exist; run {made_by} first")
    return json.loads(path.read_text(encoding="utf-8"))


def _arrow_type(values: pd.Series) -> pa.DataType:
    if is_datetime64_any_dtype(values):
        return pa.timestamp("us", tz="UTC")
    if is_object_dtype(values) and pd.api.types.infer_dtype(values, skipna=True) not in ("string", "empty"):
        return pa.array(values, from_pandas=True).type
    if is_object_dtype(values) or isinstance(values.dtype, pd.StringDtype):
        return pa.string()
    return pa.from_numpy_dtype(values.dtype) if hasattr(values.dtype, "kind") else pa.string()
