"""Read Parquet by its Arrow types, so that no id passes through a float and no time through text."""

from __future__ import annotations

import json
from io import BytesIO
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from data.files import DataError
from data.readers.delimited import require_unique_names
from data.readers.packed import Part

MAGIC = b"PAR1"


def read_parquet(part: Part) -> tuple[pd.DataFrame, dict[str, str]]:
    """A Parquet file as a frame, and the types of its columns that cannot be ids: nested ones, and bytes without text.

    Index columns of pandas are columns, except numbers without a name. Integers stay exact, also next to nulls;
    decimals, UTF-8 bytes and UUIDs become text, dates midnight, nested cells JSON text.
    """
    source = BytesIO(part.read()) if part.packing else part.path
    try:
        with pq.ParquetFile(
            source, coerce_int96_timestamp_unit="us", page_checksum_verification=True, arrow_extensions_enabled=True
        ) as file:
            table = file.read()
    except (pa.ArrowException, OSError) as error:  # a damaged page is an OSError
        raise DataError(f"{part} is not a readable Parquet file: {' '.join(str(error).split())}") from None
    require_unique_names(str(part), table.column_names)
    columns, types = {}, {}
    for field, column in zip(table.schema, table.columns, strict=True):
        if field.name.startswith("__index_level_") and pa.types.is_integer(field.type):
            continue  # pandas' row numbers
        columns[field.name], is_text = _to_series(column)
        if not is_text:
            types[field.name] = str(field.type)
    frame = pd.DataFrame(columns, pd.RangeIndex(table.num_rows))
    return frame.set_axis(pd.RangeIndex(1, table.num_rows + 1, name="source_row")), types


def _to_series(column: pa.ChunkedArray) -> tuple[pd.Series, bool]:
    """A column as a series, and whether its cells may be ids."""
    kind = column.type
    if isinstance(kind, pa.UuidType):
        texts = [None if cell is None else str(cell) for cell in column.to_pylist()]
        return pd.Series(texts, dtype=object), True
    if isinstance(kind, pa.BaseExtensionType):
        return _to_series(pa.chunked_array([chunk.storage for chunk in column.chunks], kind.storage_type))
    if pa.types.is_dictionary(kind):
        return _to_series(column.cast(kind.value_type))
    if pa.types.is_nested(kind):
        return pd.Series([_as_json(cell) for cell in column.to_pylist()], dtype=object), False
    if pa.types.is_integer(kind):
        try:
            exact = {pa.int64(): pd.Int64Dtype()}.get if column.null_count else None
            return column.cast(pa.int64()).to_pandas(types_mapper=exact), True
        except pa.ArrowInvalid:  # above int64
            return _text(column), True
    if pa.types.is_date(kind):
        return column.cast(pa.timestamp("ms")).to_pandas(), True
    if pa.types.is_timestamp(kind) or pa.types.is_boolean(kind):
        return column.to_pandas(), True
    if pa.types.is_floating(kind):
        return column.cast(pa.float64()).to_pandas(), True
    if pa.types.is_decimal(kind):
        text = _text(column)
        filled = text.dropna()
        return (text.str.partition(".")[0] if filled.str.fullmatch(r"-?\d+\.0*").all() and len(filled) else text), True
    try:
        text = _text(column)
        return (text.str.rstrip("\0") if pa.types.is_fixed_size_binary(kind) else text), True
    except pa.ArrowInvalid:  # bytes that are not UTF-8
        hexadecimal = [None if cell is None else cell.hex() for cell in column.to_pylist()]
        return pd.Series(hexadecimal, dtype=object), False


def _text(column: pa.ChunkedArray) -> pd.Series:
    if pa.types.is_fixed_size_binary(column.type):
        column = column.cast(pa.binary())
    return column.cast(pa.string()).to_pandas().astype(object)


def _as_json(cell: Any) -> str | None:
    return None if cell is None else json.dumps(cell, ensure_ascii=False, default=str)
