"""Read JSON lines and JSON arrays of objects: as a table, or record by record with nested values kept."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from io import BytesIO
from typing import Any

import pandas as pd
import pyarrow as pa
from pyarrow import json as arrow_json

from data.files import DataError
from data.readers.encodings import MARK, describe_invalid, show
from data.readers.packed import Part

LARGEST_EXACT = 2**53  # integers above it are not exact as floats

_BEGINS_JSON = re.compile(r"\s*(\{\s*[\"}]|\[\s*[\[{\]])")
_Broken = list[tuple[int, str, str]]  # source_row, raw, reason


def is_json(head: bytes) -> bool:
    """Whether text that begins with `head` is JSON: an object or an array of them."""
    return _BEGINS_JSON.match(head.decode("utf-8", "replace").lstrip("\ufeff")) is not None


def read_json_table(part: Part, content: bytes, encoding: str) -> tuple[pd.DataFrame, _Broken]:
    """JSON lines or an array of flat objects as a frame and what could not be read; nested values become JSON text."""
    frame = None if content.lstrip().startswith(b"[") or MARK.encode() in content else _read_by_arrow(content)
    if frame is not None:
        return frame, []
    broken: _Broken = []
    columns: dict[str, list] = {}
    numbers: list[int] = []
    for number, record in enumerate(parse_objects(str(part), content, encoding), 1):
        if not isinstance(record, dict):
            broken.append((number, *record))
            continue
        for name in record.keys() - columns.keys():
            columns[name] = [None] * len(numbers)
        for name, cells in columns.items():
            cells.append(_cell(record.get(name)))
        numbers.append(number)
    names = sorted(columns, key=lambda name: content.find(json.dumps(name, ensure_ascii=False).encode()))
    index = pd.Index(numbers, name="source_row", dtype="int64")
    return pd.DataFrame({name: pd.Series(columns[name], index, object) for name in names}, index), broken


def _read_by_arrow(content: bytes) -> pd.DataFrame | None:
    """JSON lines of one type per column, fast; None for those that Arrow cannot read exactly."""
    try:
        table = arrow_json.read_json(BytesIO(content))
        names = table.schema.names
        # Text that looks like a time would become one.
        texts = [pa.field(field.name, pa.string()) for field in table.schema if pa.types.is_timestamp(field.type)]
        if texts:
            options = arrow_json.ParseOptions(explicit_schema=pa.schema(texts))
            table = arrow_json.read_json(BytesIO(content), parse_options=options).select(names)
    except pa.ArrowException:
        return None
    if any(pa.types.is_nested(kind) for kind in table.schema.types):
        return None
    frame = table.to_pandas(integer_object_nulls=True)
    floats = frame.select_dtypes("float")
    if (floats.abs() >= LARGEST_EXACT).to_numpy().any():
        return None
    return frame.set_axis(pd.RangeIndex(1, len(frame) + 1, name="source_row"))


def parse_objects(name: str, content: bytes, encoding: str) -> Iterable[dict[str, Any] | tuple[str, str]]:
    """Each object of a file, or the raw text and a reason for what is none."""
    if not content.lstrip().startswith(b"["):
        return (_parse_line(line.decode(), encoding) for line in content.split(b"\n") if line.strip())
    try:
        records = json.loads(content, object_pairs_hook=_unique)
    except ValueError as error:
        raise DataError(f"{name} is not a readable JSON array: {error}") from None
    if records and not any(isinstance(record, dict) for record in records):
        raise DataError(f"{name} is a JSON array of other values; expected objects")
    return [_checked(record, json.dumps(record)) for record in records]


def _parse_line(line: str, encoding: str) -> dict[str, Any] | tuple[str, str]:
    if MARK in line:
        return show(line), describe_invalid(line, encoding)
    try:
        record = json.loads(line, object_pairs_hook=_unique)
    except ValueError as error:
        return line, f"is not JSON: {error}"
    return _checked(record, line)


def _checked(record: Any, raw: str) -> dict[str, Any] | tuple[str, str]:
    """The record, or its raw text and a reason if it is no object, or not text that can be stored."""
    if not isinstance(record, dict):
        return raw, "is not a JSON object"
    if "\\ud" in raw.lower():  # an escape of a surrogate; pairs of them are letters
        try:
            json.dumps(record, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            return raw, "holds half of a surrogate pair"
    return record


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    record = dict(pairs)
    if len(record) < len(pairs):
        raise ValueError("a key is there twice")
    return record


def _cell(value: Any) -> Any:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, dict | list) else value
