"""Read CSV, TSV, Parquet and separated lines as raw tables, and map their columns to the project's names."""

from __future__ import annotations

import csv
import json
import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from pandas.api.types import infer_dtype
from pyarrow import csv as arrow_csv

from config.params import TableFormat
from data import columns
from data.files import DataError

SUFFIXES = (".csv", ".tsv", ".txt", ".parquet", ".pq")
SIDE_COLUMNS = (columns.TITLE, columns.GENRES, columns.DESCRIPTION, columns.RELEASE_TIME, columns.TRAINING_CONSENT)
MAX_SHOWN = 40  # column names, and characters of a name, that an error message repeats

# Compared in lower case without punctuation, and without RecBole's ":token".
ALIASES = {
    columns.EVENT_ID: "eventid messageid",
    columns.USER: "userid user uid customerid customer visitorid memberid reviewerid userpseudoid",
    columns.ITEM: "itemid item iid movieid productid trackid articleid bookid songid asin sku videoid businessid parentasin",
    columns.EVENT_TIME: (
        "eventtime timestamp time ts datetime date eventtimestamp unixtimestamp ratingtimestamp unixreviewtime tdat"
    ),
    columns.KNOWN_TIME: "knowntime receivedat ingestedat",
    columns.EVENT_TYPE: "eventtype event eventname action type behavior behaviour",
    columns.VALUE: "value rating score stars overall",
    columns.SESSION: "sessionid session usersession",
    columns.TITLE: "title movietitle name itemname productname",
    columns.GENRES: "genres genre categories category",
    columns.DESCRIPTION: "description summary overview abstract",
    columns.RELEASE_TIME: "releasetime releasedate publishedat published",
    columns.TRAINING_CONSENT: "consenttraining trainingconsent",
}

_PARQUET_MAGIC = b"PAR1"
# Control characters other than white space and DOS's end of file
_BINARY = re.compile(rb"[\x00-\x08\x0e-\x19\x1b-\x1f]")


def broken_lines(source_rows: Sequence[int] = (), raw: Sequence[str] = (), reasons: Sequence[str] = ()) -> pd.DataFrame:
    """Lines that could not be parsed: source_row, raw (the text), reason."""
    rows = pd.Series(list(source_rows), dtype="int64")
    return pd.DataFrame({"source_row": rows, "raw": list(raw), "reason": list(reasons)})


@dataclass(frozen=True)
class RawTable:
    """Rows under the file's own column names. The index is the row's number in the file, from 1."""

    path: Path
    rows: pd.DataFrame
    broken: pd.DataFrame = field(default_factory=broken_lines)
    header: tuple[str, ...] = ()  # the file's own column names; () if the format has none
    types: Mapping[str, str] = field(default_factory=dict)  # column -> RecBole type, if the format declares it
    # What the reader found or used: files, format, compression, encoding, delimiter, quote, rows (read, with broken)
    found: Mapping[str, Any] = field(default_factory=dict)
    items: pd.DataFrame | None = None  # what the rows of events say about items: item_id and traits


def read_head(path: Path) -> bytes:
    """The first 4096 bytes of a file. Raises a DataError if the file is missing or empty."""
    if not path.exists():
        raise DataError(f"{path} does not exist")
    if not path.is_file():
        raise DataError(f"{path} is a folder; expected a file")
    if path.stat().st_size == 0:
        raise DataError(f"{path} is empty")
    with path.open("rb") as file:
        return file.read(4096)


def first_line(path: Path) -> str:
    """The first line of a file, as far as it lies within the first 4096 bytes."""
    return read_head(path).decode("ascii", "surrogateescape").lstrip().split("\n")[0].strip()


def is_dat(path: Path) -> bool:
    """Whether a file separates its fields by `::`, as ratings.dat does, and has no suffix of another format."""
    return path.suffix not in (".csv", ".tsv", ".parquet", ".pq") and "::" in first_line(path)


def read_text(path: Path, encoding: str | None) -> tuple[str, str]:
    """The text of a file without its byte-order mark, and its encoding.

    Args:
        encoding: None for UTF-8, else Latin-1 (MovieLens 100K and 1M).
    """
    if _BINARY.search(read_head(path)):
        raise DataError(
            f"{path} is not text; readable formats: CSV, TSV, Parquet, MovieLens u.data and .dat, RecBole .inter"
        )
    content = path.read_bytes()
    try:
        return content.decode(encoding or "utf-8").removeprefix("\ufeff"), encoding or "utf-8"
    except UnicodeDecodeError as error:
        if encoding:
            raise DataError(f"{path} is not text in {encoding}: {error.reason} at byte {error.start}") from None
        return content.decode("latin-1"), "latin-1"


def to_text(values: pd.Series) -> pd.Series:
    """Convert cells to text, null where empty: 7 and 7.0 become "7", "007" stays."""
    filled = values.notna()
    if values.dtype.kind == "f" and (values[filled] % 1 == 0).all():
        values = values.astype("Int64")  # integers are read as floats if a file leaves one out
    text = values
    if values.dtype != object or infer_dtype(values, skipna=True) != "string":
        text = values.astype("string").astype(object)
    return text.where(filled & (text != ""), None)


def number_rows(frame: pd.DataFrame, skipped: Sequence[int] = ()) -> pd.DataFrame:
    """Index rows by their number in the file, from 1, leaving out the numbers in `skipped`."""
    numbers = np.setdiff1d(np.arange(1, len(frame) + len(skipped) + 1), np.array(skipped, dtype=np.int64))
    return frame.set_axis(pd.Index(numbers[: len(frame)], name="source_row", dtype="int64"))


def read_lines(path: Path, separator: str, names: list[str], table_format: TableFormat) -> RawTable:
    """Read a file without a header, each line of which holds the fields `names` as text.

    Lines with another number of fields come back in `broken`.
    """
    # Not splitlines: it also breaks at characters that Latin-1 titles may contain.
    text, encoding = read_text(path, table_format.encoding)
    lines = [line for line in (line.removesuffix("\r") for line in text.split("\n")) if line.strip()]
    fields = [line.split(separator) for line in lines]
    wrong = [number for number, parts in enumerate(fields, 1) if len(parts) != len(names)]
    if len(wrong) == len(fields):
        shown = f"its first line reads {lines[0][:60]!r}" if lines else "it holds blank lines only"
        raise DataError(f"{path}: expected lines of {separator.join(names)}; {shown}")
    complete = [parts for parts in fields if len(parts) == len(names)]
    cells = dict(zip(names, zip(*complete, strict=True), strict=True))
    frame = pd.DataFrame({name: to_text(pd.Series(values, dtype=object)) for name, values in cells.items()})
    reasons = [f"line has {len(fields[number - 1])} fields, not {len(names)}" for number in wrong]
    broken = broken_lines(wrong, [lines[number - 1] for number in wrong], reasons)
    found = facts(path, "lines", len(lines), encoding=encoding, delimiter=separator)
    return RawTable(path, number_rows(frame, wrong), broken, found=found)


def facts(path: Path, kind: str, num_rows: int, **others: Any) -> dict[str, Any]:
    """What `RawTable.found` holds for one file: its name, format and rows, and `others`."""
    return {"files": [str(path)], "format": kind, "compression": None, **others, "rows": num_rows}


def read_named_columns(path: Path, table_format: TableFormat) -> RawTable:
    """Read a table by its content: Parquet keeps its types, CSV and TSV become text."""
    if read_head(path)[:4] == _PARQUET_MAGIC:
        return _read_parquet(path)
    if path.suffix in (".parquet", ".pq"):
        raise DataError(f"{path} is not a Parquet file: it does not begin with PAR1")
    text, encoding = read_text(path, table_format.encoding)
    header = header_line(path, text)
    delimiter = table_format.delimiter or max(",\t;|\1", key=header.count)  # a comma if there is none of them
    table = parse_text(path, text, header, delimiter, table_format.quote)
    return replace(table, found={**table.found, "encoding": encoding})


def _read_parquet(path: Path) -> RawTable:
    try:
        table = pq.read_table(path)
        frame = table.to_pandas()
    except (pa.ArrowException, OSError) as error:  # a damaged page is an OSError
        raise DataError(f"{path} is not a readable Parquet file: {_one_line(error)}") from None
    for name, kind in zip(table.schema.names, table.schema.types, strict=True):
        if pa.types.is_nested(kind) or pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
            frame[name] = frame[name].map(_cell_text, na_action="ignore")
    _require_unique_names(path, list(frame.columns))
    rows = number_rows(frame.reset_index(drop=True))
    return RawTable(path, rows, header=tuple(frame.columns), found=facts(path, "parquet", len(rows)))


def _cell_text(cell: object) -> str:
    """A list as JSON, and a structure or bytes as text, as a CSV would contain it."""
    if isinstance(cell, np.ndarray):
        return json.dumps(cell.tolist(), default=str, ensure_ascii=False)
    return cell.decode("utf-8", "replace") if isinstance(cell, bytes) else str(cell)


def header_line(path: Path, text: str) -> str:
    """The first line that is not empty. Raises a DataError if all lines are blank."""
    header = re.split(r"[\r\n]", text.lstrip("\r\n"), maxsplit=1)[0]
    if not header.strip():
        raise DataError(f"{path} holds blank lines only")
    return header


def parse_text(path: Path, text: str, header: str, delimiter: str, quote: str | None) -> RawTable:
    """Parse delimited text that begins with `header`. All cells are text.

    A quote, unless it is None, opens a cell that may contain delimiters and line breaks.
    """
    broken: list[arrow_csv.InvalidRow] = []

    def skip(row: arrow_csv.InvalidRow) -> str:
        broken.append(row)
        return "skip"

    try:
        names = next(csv.reader([header], delimiter=delimiter, quotechar=quote)) if quote else header.split(delimiter)
        table = arrow_csv.read_csv(
            BytesIO(f"{text}\n".encode()),  # Arrow refuses a header without a line end
            # With several threads Arrow does not know the numbers of bad rows.
            read_options=arrow_csv.ReadOptions(use_threads=False, block_size=1 << 24),
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
    except (pa.ArrowException, csv.Error) as error:
        raise DataError(f"{path} is not a readable CSV file: {_one_line(error)}") from None
    names = [name.strip() for name in table.column_names]
    _require_unique_names(path, names)
    frame = table.rename_columns(names).to_pandas()
    numbers = [row.number - 1 for row in broken]
    reasons = [f"line has {row.actual_columns} fields, not {row.expected_columns}" for row in broken]
    lines = broken_lines(numbers, [row.text for row in broken], reasons)
    found = facts(path, "delimited text", len(frame) + len(lines), delimiter=delimiter, quote=quote)
    return RawTable(path, number_rows(frame, numbers), lines, tuple(names), found=found)


def apply_na_values(table: RawTable, table_format: TableFormat, ids: Sequence[str], text: Collection[str]) -> RawTable:
    """Empty the cells that hold one of `na_values`, except in the columns `text`.

    A row with one of them as an id is moved to `broken`.
    """
    rows, is_bad, reasons = table.rows, pd.Series(False, index=table.rows.index), []
    changed, na_cells = {}, {}
    for name in rows.columns:
        if name in text or rows[name].dtype != object:
            continue
        tokens = [
            cell for cell in rows[name].unique() if isinstance(cell, str) and cell.strip() in table_format.na_values
        ]
        is_na = rows[name].isin(tokens)
        if name in ids:
            bad = rows[name][is_na & ~is_bad]
            reasons.append(bad.map(f"{name} is {{!r}}, one of {table_format.key}.na_values".format))
            is_bad |= is_na
        elif is_na.any():
            changed[name] = rows[name].mask(is_na, None)
            na_cells[name] = int(is_na.sum())
    if changed:
        table = replace(table, found={**table.found, "na_cells": na_cells})
        rows = rows.assign(**changed)
    if not is_bad.any():
        return replace(table, rows=rows)
    bad_rows = table.rows[is_bad]
    raw = [json.dumps(row, default=str, ensure_ascii=False) for row in bad_rows.to_dict("records")]
    broken = broken_lines(list(bad_rows.index), raw, list(pd.concat(reasons).loc[bad_rows.index]))
    return replace(table, rows=rows[~is_bad], broken=pd.concat([table.broken, broken], ignore_index=True))


def _require_unique_names(path: Path, names: list[str]) -> None:
    repeated = [name for name, count in Counter(names).items() if count > 1]
    if repeated:
        raise DataError(f"{path}: the column {repeated[0]!r} is there twice")


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


# Column mapping


def check_mapping(mapping: Mapping[str, str], context: Sequence[str]) -> None:
    """Raise a DataError if `ingest.columns` names a column that the project does not have."""
    known = (*columns.EVENT_COLUMNS, *SIDE_COLUMNS, *context)
    for name in mapping:
        if name not in known:
            raise DataError(f"ingest.columns.{name} is none of our columns; they are {', '.join(known)}")


def map_columns(
    table: RawTable, names: Sequence[str], required: Sequence[str], mapping: Mapping[str, str]
) -> dict[str, str]:
    """Find the project's columns in a table: by `mapping`, by name, or by alias.

    Returns the project's name -> the table's name, for those of `names` that the table has. Raises DataError if a
    mapped or required column is missing, or an alias is ambiguous.
    """
    header = list(table.rows.columns)
    mapped = {name: mapping[name] for name in names if name in mapping}
    found = {}
    for name in names:
        if name in mapped:
            matches = [column for column in header if column == mapped[name]]
            if not matches:
                raise DataError(
                    f"{table.path}: ingest.columns.{name} is {mapped[name]!r}; the file holds {_list(header)}"
                )
        elif name in header:
            matches = [name]
        else:
            aliases = ALIASES.get(name, "").split()
            matches = [column for column in header if _plain(column) in aliases and column not in mapped.values()]
        if len(matches) > 1:
            choice = " or ".join(map(repr, matches))
            raise DataError(f"{table.path}: {name} may be {choice}; say which in params.yaml: ingest.columns.{name}")
        if matches:
            found[name] = matches[0]
        elif name in required:
            raise DataError(
                f"{table.path}: no column {name}; it holds {_list(header)}; say which one it is in params.yaml: "
                f"ingest.columns: {{{name}: ...}}"
            )
    return found


def _list(names: Sequence[str]) -> str:
    shown = [repr(name if len(name) <= MAX_SHOWN else f"{name[:MAX_SHOWN]}...") for name in map(str, names)]
    rest = [f"{len(shown) - MAX_SHOWN} more"] if len(shown) > MAX_SHOWN else []
    return ", ".join([*shown[:MAX_SHOWN], *rest])


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", str(name).split(":")[0].lower())
