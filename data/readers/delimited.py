"""Parse CSV, TSV and other delimited text. What cannot be a row of the table is kept with its number and the reason."""

from __future__ import annotations

import csv
import re
from collections import Counter
from io import BytesIO
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv as arrow_csv

from config.params import TableFormat
from data.files import DataError
from data.readers.encodings import MARK, describe_invalid, show
from data.readers.quotes import mark_broken_quotes

DELIMITERS = (",", "\t", ";", "|", "\1")  # the one that the header holds most often wins, the first of equals

QUOTES_ARE_LETTERS = "read as letters"
_UNIT = "\x1f"  # takes the place of a delimiter of several characters, since Arrow's has one
Broken = list[tuple[int, str, str]]  # source_row, raw, reason


def read_delimited(
    name: str, content: bytes, encoding: str, table_format: TableFormat
) -> tuple[pd.DataFrame, Broken, dict[str, Any]]:
    """Parse delimited text in UTF-8: its rows as text under its header, broken rows, and delimiter and quote found.

    Raises a DataError if there is no header, a name is there twice, or no row fits the header.
    """
    content, delimiter = _skip_preamble(content, table_format.delimiter)
    header = header_line(name, content)
    delimiter = delimiter or find_delimiter(header)
    quote = table_format.quote
    single = delimiter
    if len(delimiter) > 1:
        content, single = content.replace(delimiter.encode(), _UNIT.encode()), _UNIT
        header = header.replace(delimiter, _UNIT)
    names = [cell.strip() for cell in _split_header(name, header, single, quote)]
    content, quote, marked = mark_broken_quotes(name, content, single, quote, len(names), table_format)
    frame, broken = parse_rows(name, content, single, quote, encoding, marked, len(names))
    if len(delimiter) > 1:
        frame = frame.replace(_UNIT, delimiter, regex=True)
        broken = [(row, raw.replace(_UNIT, delimiter), reason) for row, raw, reason in broken]
    if frame.empty and broken:
        raise DataError(f"{name}: no line has the {len(names)} fields of its header; the first {broken[0][2]}")
    are_letters = quote is None and table_format.quote is not None and table_format.quote.encode() in content
    found = {"delimiter": delimiter, "quote": QUOTES_ARE_LETTERS if are_letters else quote}
    return _name_columns(name, frame, names), broken, found


def first_line(content: bytes) -> str:
    """The first line that is not empty, or nothing."""
    return re.split(rb"[\r\n]", content.lstrip(b"\r\n"), maxsplit=1)[0].decode()


def header_line(name: str, content: bytes) -> str:
    """The first line that is not empty. Raises a DataError if all lines are blank."""
    header = first_line(content)
    if not header.strip():
        raise DataError(f"{name} holds blank lines only")
    return header


def _split_header(name: str, header: str, delimiter: str, quote: str | None) -> list[str]:
    if quote is None:
        return header.split(delimiter)
    if header.count(quote) % 2:
        raise DataError(f"{name} is not a readable CSV file: a quote in its header is not closed")
    try:
        return next(csv.reader([header], delimiter=delimiter, quotechar=quote))
    except csv.Error as error:
        raise DataError(f"{name} is not a readable CSV file: {error}") from None


def find_delimiter(header: str) -> str:
    """The delimiter of a header: a comma if it holds none of them and no space."""
    outside = re.sub(r'"[^"]*"', "", header)
    best = max(DELIMITERS, key=outside.count)
    if best not in outside:
        return " " if " " in outside.strip() else ","
    return "||" if best == "|" and "|" not in outside.replace("||", "") else best


def _skip_preamble(content: bytes, delimiter: str | None) -> tuple[bytes, str | None]:
    """Skip Excel's `sep=;` and comments above the header. A commented header (`#user_id,item_id`) is one."""
    content = content.lstrip(b"\r\n")
    if excel := re.match(rb'"?sep=(.)"?[\r\n]+', content, re.IGNORECASE):
        return content[excel.end() :], delimiter or excel[1].decode()
    comments = re.match(rb"(?:#[^\r\n]*[\r\n]+)+", content)
    if not comments:
        return content, delimiter
    last = comments[0].rstrip(b"\r\n").splitlines()[-1].decode()
    below = first_line(content[comments.end() :])
    mark = delimiter or find_delimiter(below)
    if mark in last and last.count(mark) == below.count(mark):
        return last.lstrip("# ").encode() + b"\n" + content[comments.end() :], delimiter
    return content[comments.end() :], delimiter


def parse_rows(
    name: str,
    content: bytes,
    delimiter: str,
    quote: str | None,
    encoding: str,
    marked: list[str],
    num_columns: int,
    has_header: bool = True,
) -> tuple[pd.DataFrame, Broken]:
    """The rows as text, numbered from 1 after the header if there is one, and the broken ones.

    Args:
        marked: lines with a broken quote, which stand in `content` as a mark and their position in this list.
    """
    broken: list[tuple[int, str, str]] = []

    def skip(row: arrow_csv.InvalidRow) -> str:
        if row.text.startswith(f"{MARK}quote "):
            broken.append(
                (row.number - has_header, marked[int(row.text.split()[1])], "a quote is not closed, or stands alone")
            )
        else:
            fields = f"line has {row.actual_columns} fields, not {row.expected_columns}"
            broken.append((row.number - has_header, show(row.text), fields))
        return "skip"

    names = [str(number) for number in range(num_columns)]
    try:
        table = arrow_csv.read_csv(
            BytesIO(content if content.endswith((b"\n", b"\r")) else content + b"\n"),
            # With several threads Arrow does not know the numbers of bad rows.
            read_options=arrow_csv.ReadOptions(
                use_threads=False, block_size=1 << 24, column_names=names, skip_rows=int(has_header)
            ),
            parse_options=arrow_csv.ParseOptions(
                delimiter=delimiter,
                invalid_row_handler=skip,
                quote_char=quote or False,
                newlines_in_values=quote is not None,
            ),
            convert_options=arrow_csv.ConvertOptions(
                column_types=dict.fromkeys(names, pa.string()), null_values=[""], strings_can_be_null=True
            ),
        )
    except pa.ArrowException as error:
        raise DataError(f"{name} is not a readable CSV file: {' '.join(str(error).split())}") from None
    bad = np.zeros(table.num_rows, bool)
    if MARK.encode() in content:
        for column in table.columns:
            bad |= pc.match_substring(column, MARK).fill_null(False).to_numpy()
    frame = table.to_pandas()
    skipped = np.array([row for row, _, _ in broken], dtype=np.int64)
    numbers = np.setdiff1d(np.arange(1, len(frame) + len(broken) + 1), skipped)
    frame.index = pd.Index(numbers, name="source_row", dtype="int64")
    for number, row in zip(numbers[bad], frame[bad].itertuples(index=False), strict=True):
        cells = ["" if cell is None else str(cell) for cell in row]
        line = delimiter.join(cells)
        broken.append((int(number), show(line), f"line {describe_invalid(line, encoding)}"))
    return frame[~bad], sorted(broken)


def _name_columns(name: str, frame: pd.DataFrame, names: list[str]) -> pd.DataFrame:
    """Name the columns; those without a name, such as Excel's empty ones or a row number, are left out."""
    require_unique_names(name, [column for column in names if column])
    frame = frame.set_axis(names, axis=1)
    return frame.loc[:, [bool(column) for column in names]]


def require_unique_names(name: str, names: list[str]) -> None:
    """Raise a DataError if a column name occurs twice; a line of data instead of names is recognized by its numbers."""
    repeated = [column for column, count in Counter(names).items() if count > 1]
    if repeated:
        raise DataError(f"{name}: the column {repeated[0]!r} is there twice{hint_no_header(names)}")


def hint_no_header(names: list[str]) -> str:
    """What to do if the first line holds no names, which is known by a cell that is a number; else nothing."""
    if not any(re.fullmatch(r"[-+]?\d[\d.,:T Z-]*", cell) for cell in names):
        return ""
    return "; its first line looks like data: add a line of column names above it, such as user_id,item_id,event_time"
