"""Read nested records, from JSON or Parquet, as Arrow tables of the fields that a format needs.

A shape names the fields: a dict is an object, a list of one shape is an array, and int, float or str is a cell of the
type that it usually has. A cell of type `object` may also hold an object or an array, which stays JSON text.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from io import BytesIO
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json as arrow_json
import pyarrow.parquet as pq

from data.readers.json_records import parse_objects

RECORD = "record"  # number of a record in its file, from 1
BLOCK_BYTES = 1 << 24  # parsed at once

Shape = dict[str, Any] | list[Any] | type
Broken = list[tuple[int, str, str]]  # number of the record, its text, reason

_TYPES = {int: pa.int64(), float: pa.float64(), str: pa.string(), object: pa.string()}
_TEXT = dict.fromkeys(_TYPES, pa.string())


def read_json_shape(
    name: str, content: bytes, encoding: str, shape: dict[str, Any], broken: Broken
) -> Iterator[pa.Table]:
    """Read JSON lines, or one JSON array, of a file as `decode` returns it, block by block.

    Yields tables with a column for each key of the shape, all cells as text, and the column RECORD. What cannot be
    read, or has another form than the shape, is appended to `broken`.
    """
    number = start = 0
    block_bytes = len(content) if content.lstrip().startswith(b"[") else BLOCK_BYTES
    while start < len(content):
        end = content.find(b"\n", start + block_bytes) + 1 or len(content)
        block, start = content[start:end], end
        table = _parse_block(block, _schema(shape, _TYPES))
        if table is not None:
            yield _number(table.cast(_schema(shape, _TEXT)), number)
            number += len(table)
            continue
        rows = []
        for record in parse_objects(name, block, encoding):
            number += 1
            try:
                if isinstance(record, tuple):
                    broken.append((number, *record))
                else:
                    rows.append(_fit(record, shape, "record") | {RECORD: number})
            except ValueError as error:
                broken.append((number, json.dumps(record, ensure_ascii=False), str(error)))
        yield pa.Table.from_pylist(rows, _schema(shape, _TEXT).append(pa.field(RECORD, pa.int64())))


def read_parquet_shape(content: bytes, shape: dict[str, Any]) -> Iterator[pa.Table]:
    """Read the rows of a Parquet file like records of JSON. Raises ValueError if a column does not fit the shape."""
    source = pq.ParquetFile(BytesIO(content))
    number = 0
    for batch in source.iter_batches(columns=[name for name in shape if name in source.schema_arrow.names]):
        yield _number(fit_table(pa.table(batch), shape), number)
        number += len(batch)


def add_nested_columns(rows: pd.DataFrame, paths: Iterable[str]) -> pd.DataFrame:
    """A table with a column for each path, such as `user.id`, that leads into a column of JSON text.

    A cell is null where the JSON lacks the field, or is none.
    """
    for path in paths:
        root, _, inner = path.partition(".")
        if not inner or path in rows or root not in rows:
            continue
        lines = rows[root].fillna("{}").astype(str).str.replace("\n", " ").str.strip()
        content = "\n".join(lines.where(lines != "", "{}")).encode()
        tables = list(read_json_shape(root, content, "utf-8", shape_of({inner: object}), []))
        cells = pd.concat([values_at(table, inner).to_pandas().set_axis(table[RECORD].to_pandas()) for table in tables])
        rows = rows.assign(**{path: cells.reindex(range(1, len(rows) + 1)).to_numpy()})
    return rows


def shape_of(paths: Mapping[str, type]) -> dict[str, Any]:
    """The shape of records with the fields at these paths; `events[].aid` leads into an array."""
    shape: dict[str, Any] = {}
    for path, kind in paths.items():
        *parents, last = path.split(".")
        place = shape
        for name in parents:
            place = place.setdefault(name.removesuffix("[]"), [{}] if name.endswith("[]") else {})
            place = place[0] if isinstance(place, list) else place
        place[last] = kind
    return shape


def fit_table(table: pa.Table, shape: dict[str, Any]) -> pa.Table:
    """A table with the fields of a shape only, its cells as text; null where it lacks a field."""
    columns = {}
    for name, kind in zip(shape, _schema(shape, _TEXT).types, strict=True):
        values = table[name] if name in table.column_names else pa.nulls(len(table), kind)
        try:
            columns[name] = values.cast(kind)
        except (pa.ArrowNotImplementedError, pa.ArrowInvalid):
            raise ValueError(f"column {name} is {values.type}; expected {_kind(shape[name])}") from None
    return pa.table(columns)


def values_at(table: pa.Table | pa.Array, path: str) -> pa.Array:
    """The values of a field of a table or of an array of objects; of a nested one by its path, `context.device`."""
    if isinstance(table, pa.Array):
        return pc.struct_field(table, path.split("."))
    first, *others = path.split(".")
    values = table[first].combine_chunks()
    return pc.struct_field(values, others) if others else values


def unnest(lists: pa.Array) -> tuple[pa.Array, np.ndarray, np.ndarray]:
    """The elements of lists in one array, with one null for a list that is empty or null.

    Also returns for each element the number of its list, from 0, and its position in it, from 0.
    """
    lengths = pc.fill_null(pc.list_value_length(lists), 0).to_numpy()
    counts = np.maximum(lengths, 1)
    parents = np.repeat(np.arange(len(lists)), counts)
    positions = np.arange(len(parents)) - np.repeat(np.cumsum(counts) - counts, counts)
    is_filled = lengths[parents] > 0
    elements = pc.list_flatten(lists).take(pa.array(np.cumsum(is_filled) - 1, mask=~is_filled))
    return elements, parents, positions


def _number(table: pa.Table, number: int) -> pa.Table:
    return table.append_column(RECORD, pa.array(np.arange(number + 1, number + len(table) + 1)))


def _schema(shape: dict[str, Any], types: dict[type, pa.DataType]) -> pa.Schema:
    def convert(part: Shape) -> pa.DataType:
        if isinstance(part, dict):
            return pa.struct([(name, convert(kind)) for name, kind in part.items()])
        return pa.list_(convert(part[0])) if isinstance(part, list) else types[part]

    return pa.schema(list(convert(shape)))


def _parse_block(block: bytes, schema: pa.Schema) -> pa.Table | None:
    """Parse whole lines by Arrow; None if one is no record of the schema."""
    options = arrow_json.ParseOptions(explicit_schema=schema, unexpected_field_behavior="ignore")
    try:
        table = None if b"\0" in block else arrow_json.read_json(BytesIO(block), parse_options=options)
    except pa.ArrowException:
        return None
    num_lines = block.count(b"\n") + (not block.endswith(b"\n"))
    return table if table is not None and len(table) == num_lines else None


def _fit(value: Any, shape: Shape, name: str) -> Any:
    """A value with the fields of a shape only, its cells as text. Raises ValueError if it has another form."""
    if value is None or (value in ([], {}) and type(value) is not type(shape)):  # PHP writes an empty object as []
        return None
    if isinstance(shape, dict) and isinstance(value, dict):
        return {key: _fit(value.get(key), kind, key) for key, kind in shape.items()}
    if isinstance(shape, list) and isinstance(value, list):
        return [_fit(element, shape[0], name) for element in value]
    if shape is object and isinstance(value, dict | list):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(shape, dict | list) or isinstance(value, dict | list):
        raise ValueError(f"{name} is {_kind(value)}; expected {_kind(shape)}")
    return value if isinstance(value, str) else str(value).lower()  # true, false


def _kind(value: Any) -> str:
    return "an object" if isinstance(value, dict) else "an array" if isinstance(value, list) else "one value"
