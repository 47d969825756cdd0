"""CSV, TSV and Parquet files with named columns."""

from __future__ import annotations

import csv
import re
from collections import Counter
from io import BytesIO
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import csv as arrow_csv

from data.errors import DataError
from data.readers.raw import Table, head, no_rows, number_rows, read_text

SUFFIXES = (".csv", ".tsv", ".txt", ".parquet", ".pq")
_PARQUET = b"PAR1"


def read_table(path: Path) -> Table:
    """Read a table by its content: Parquet keeps its types, CSV and TSV come as text."""
    if head(path)[:4] == _PARQUET:
        return _read_parquet(path)
    if path.suffix in (".parquet", ".pq"):
        raise DataError(f"{path} is not a Parquet file: it does not begin with PAR1")
    return _read_csv(path)


def _read_parquet(path: Path) -> Table:
    try:
        table = pq.read_table(path)
        frame = table.to_pandas()
    except (pa.ArrowException, OSError) as error:  # a damaged page is an OSError
        raise DataError(f"{path} is not a readable Parquet file: {_one_line(error)}") from None
    for name in (field.name for field in table.schema if _is_no_value(field.type)):
        frame[name] = frame[name].map(_as_text, na_action="ignore")
    _check_header(path, list(frame.columns))
    return Table(path, number_rows(frame.reset_index(drop=True), set()), header=tuple(frame.columns))


def first_filled_line(path: Path, text: str) -> str:
    """The header; a DataError where every line is blank."""
    header = re.split(r"[\r\n]", text.lstrip("\r\n"), maxsplit=1)[0]
    if not header.strip():
        raise DataError(f"{path} holds blank lines only")
    return header


def _read_csv(path: Path) -> Table:
    text = read_text(path)
    header = first_filled_line(path, text)
    delimiter = max(",\t;|", key=header.count)  # a comma where none of them is there
    return parse(path, text, header, delimiter, quoted=True)


def parse(path: Path, text: str, header: str, delimiter: str, quoted: bool) -> Table:
    """Take the lines of `text`, which begins with `header`, apart; all cells are text.

    Args:
        quoted: whether a quote opens a cell that may hold delimiters and line breaks; else it is a letter.
    """
    broken: list[tuple[int, str, int, int]] = []

    def skip(row: arrow_csv.InvalidRow) -> str:
        broken.append((row.number - 1, row.text, row.actual_columns, row.expected_columns))
        return "skip"

    try:
        table = arrow_csv.read_csv(
            BytesIO(f"{text}\n".encode()),  # Arrow does not take a header that nothing ends
            # One thread, or Arrow does not know the numbers of bad rows.
            read_options=arrow_csv.ReadOptions(use_threads=False, block_size=1 << 24),
            parse_options=arrow_csv.ParseOptions(
                delimiter=delimiter,
                invalid_row_handler=skip,
                quote_char='"' if quoted else False,
                newlines_in_values=quoted,
            ),
            convert_options=arrow_csv.ConvertOptions(
                column_types=_all_text(header, delimiter, quoted), null_values=[""], strings_can_be_null=True
            ),
        )
    except (pa.ArrowException, csv.Error) as error:
        raise DataError(f"{path} is not a readable CSV file: {_one_line(error)}") from None
    names = [name.strip() for name in table.column_names]
    _check_header(path, names)
    frame = table.rename_columns(names).to_pandas()
    return Table(path, number_rows(frame, {number for number, *_ in broken}), _broken(broken), tuple(names))


def _all_text(header: str, delimiter: str, quoted: bool) -> dict[str, pa.DataType]:
    names = next(csv.reader([header], delimiter=delimiter)) if quoted else header.split(delimiter)
    return dict.fromkeys(names, pa.string())


def _is_no_value(kind: pa.DataType) -> bool:
    """Whether cells are lists, structures or bytes: they are read as text, as a CSV would hold them."""
    return pa.types.is_nested(kind) or pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def _as_text(cell: object) -> str:
    return cell.decode("utf-8", "replace") if isinstance(cell, bytes) else str(cell)


def _check_header(path: Path, names: list[str]) -> None:
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise DataError(f"{path}: the column {twice[0]!r} is there twice")


def _broken(rows: list[tuple[int, str, int, int]]) -> pd.DataFrame:
    if not rows:
        return no_rows()
    return pd.DataFrame(
        {
            "source_row": [row[0] for row in rows],
            "raw": [row[1] for row in rows],
            "reason": [f"line has {row[2]} fields, not {row[3]}" for row in rows],
        }
    )


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
