"""Read nested records, from JSON or Parquet, as Arrow tables of the fields that a format needs.

A shape names the fields: a dict is an object, a list of one shape is an array, and int, float or str is a cell of the
type that it usually has. A cell of type `object` may also hold an object or an array, which stays JSON text.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from functools import partial
from io import BytesIO
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json as arrow_json
import pyarrow.parquet as pq

LINE = "line"  # of a record in its file, from 1
BLOCK_BYTES = 1 << 24  # parsed at once

Shape = dict[str, Any] | list[Any] | type
Broken = list[tuple[int, str, str]]  # number of the line, its text, reason

_TYPES = {int: pa.int64(), float: pa.float64(), str: pa.string(), object: pa.string()}
_TEXT = dict.fromkeys(_TYPES, pa.string())
_parse = partial(json.loads, parse_int=str, parse_float=str, parse_constant=str)  # digits stay as they are written


def read_json_records(file: IO[bytes], shape: dict[str, Any]) -> Iterator[tuple[pa.Table, Broken]]:
    """Read JSON lines, or one JSON array, block by block.

    Yields a table with a column for each key of the shape, all cells as text, and the column LINE; and the lines that
    could not be read. Raises ValueError if an array cannot be parsed.
    """
    fast, text = _schema(shape, _TYPES), _schema(shape, _TEXT)
    number = 0
    blocks = _blocks(file)
    for block in blocks:
        if not number and block.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"["):
            array = _parse(b"".join([block, *blocks]).decode("utf-8-sig"))
            yield _fit_records(((json.dumps(record, ensure_ascii=False), record) for record in array), shape, text, 0)
            return
        num_lines = block.count(b"\n")
        table = _parse_block(block, fast)
        if table is not None and len(table) == num_lines:
            lines = pa.array(range(number + 1, number + num_lines + 1), pa.int64())
            yield table.cast(text).append_column(LINE, lines), []
        else:
            yield _fit_records(_parse_lines(block), shape, text, number)
        number += num_lines


def read_parquet_records(file: IO[bytes], shape: dict[str, Any]) -> Iterator[tuple[pa.Table, Broken]]:
    """Read the rows of a Parquet file like records of JSON. Raises ValueError if a column does not fit the shape."""
    source = pq.ParquetFile(file)
    number = 0
    for batch in source.iter_batches(columns=[name for name in shape if name in source.schema_arrow.names]):
        lines = pa.array(range(number + 1, number + len(batch) + 1), pa.int64())
        yield fit_table(pa.table(batch), shape).append_column(LINE, lines), []
        number += len(batch)


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


# Parsing


def _schema(shape: dict[str, Any], types: dict[type, pa.DataType]) -> pa.Schema:
    def convert(part: Shape) -> pa.DataType:
        if isinstance(part, dict):
            return pa.struct([(name, convert(kind)) for name, kind in part.items()])
        return pa.list_(convert(part[0])) if isinstance(part, list) else types[part]

    return pa.schema(list(convert(shape)))


def _blocks(file: IO[bytes]) -> Iterator[bytes]:
    """The content in blocks of whole lines, each with its line end."""
    rest = b""
    while chunk := file.read(BLOCK_BYTES):
        head, end, rest_of_chunk = chunk.rpartition(b"\n")
        if end:
            yield rest + head + end
            rest = b""
        rest += rest_of_chunk
    if rest:
        yield rest + b"\n"


def _parse_block(block: bytes, schema: pa.Schema) -> pa.Table | None:
    """Parse a block by Arrow; None if a line does not fit the schema."""
    options = arrow_json.ParseOptions(explicit_schema=schema, unexpected_field_behavior="ignore")
    try:
        block.decode()  # Arrow does not check it
        return arrow_json.read_json(BytesIO(block), parse_options=options)
    except (pa.ArrowException, UnicodeDecodeError):
        return None


def _parse_lines(block: bytes) -> Iterator[tuple[str, Any]]:
    """The text of each line and what it holds: a parsed value, or a ValueError."""
    for line in block.removesuffix(b"\n").split(b"\n"):
        text = line.decode(errors="replace")
        try:
            yield text, _parse(line.decode("utf-8-sig")) if text.strip() else {}
        except (ValueError, RecursionError) as error:
            yield text, ValueError(f"line is not JSON: {error}")


def _fit_records(
    records: Iterable[tuple[str, Any]], shape: dict[str, Any], schema: pa.Schema, number: int
) -> tuple[pa.Table, Broken]:
    """Fit records to a shape one by one; `number` is that of the line before the first."""
    rows: list[dict] = []
    broken: Broken = []
    for line, (text, record) in enumerate(records, number + 1):
        if not text.strip():
            continue
        try:
            if isinstance(record, ValueError):
                raise record
            rows.append(_fit({} if record is None else record, shape, "line") | {LINE: line})
        except ValueError as error:
            broken.append((line, text, str(error)))
    return pa.Table.from_pylist(rows, schema.append(pa.field(LINE, pa.int64()))), broken


def _fit(value: Any, shape: Shape, name: str) -> Any:
    """A value with the fields of a shape only, its cells as text. Raises ValueError if it has another form."""
    if value is None:
        return None
    if isinstance(shape, dict) and isinstance(value, dict):
        return {key: _fit(value.get(key), kind, key) for key, kind in shape.items()}
    if isinstance(shape, list) and isinstance(value, list):
        return [_fit(element, shape[0], name) for element in value]
    if shape is object and isinstance(value, (dict, list)):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(shape, (dict, list)) or isinstance(value, (dict, list)):
        raise ValueError(f"{name} is {_kind(value)}; expected {_kind(shape)}")
    return value if isinstance(value, str) else str(value).lower()  # true, false


def _kind(value: Any) -> str:
    return "an object" if isinstance(value, dict) else "an array" if isinstance(value, list) else "one value"
