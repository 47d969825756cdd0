"""CSV, TSV and Parquet files with named columns."""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import csv as arrow_csv

from data.columns import (
    DESCRIPTION,
    EVENT_COLUMNS,
    EVENT_ID,
    EVENT_TIME,
    EVENT_TYPE,
    GENRES,
    ITEM,
    KNOWN_TIME,
    RELEASE_TIME,
    SESSION,
    TITLE,
    TRAINING_CONSENT,
    USER,
    VALUE,
)
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


SIDE_COLUMNS = (TITLE, GENRES, DESCRIPTION, RELEASE_TIME, TRAINING_CONSENT)
REQUIRED = (USER, ITEM, EVENT_TIME)
MOST_SHOWN = 40  # names, and letters of a name, that an error repeats

# Compared in lower case without punctuation, and without RecBole's ":token".
ALIASES = {
    EVENT_ID: "eventid messageid",
    USER: "userid user uid customerid customer visitorid memberid",
    ITEM: "itemid item iid movieid productid trackid articleid bookid songid asin sku",
    EVENT_TIME: "eventtime timestamp time ts datetime date eventtimestamp unixtimestamp ratingtimestamp",
    KNOWN_TIME: "knowntime receivedat ingestedat",
    EVENT_TYPE: "eventtype event action type behavior behaviour",
    VALUE: "value rating score stars",
    SESSION: "sessionid session",
    TITLE: "title movietitle name itemname productname",
    GENRES: "genres genre categories category",
    DESCRIPTION: "description summary overview abstract",
    RELEASE_TIME: "releasetime releasedate publishedat published",
    TRAINING_CONSENT: "consenttraining trainingconsent",
}


def check_map(mapping: Mapping[str, str], context: Sequence[str]) -> None:
    """Refuse a map that names a column that is not ours."""
    ours = (*EVENT_COLUMNS, *SIDE_COLUMNS, *context)
    for name in mapping:
        if name not in ours:
            raise DataError(f"ingest.columns.{name} is none of our columns; they are {', '.join(ours)}")


def resolve(found: Sequence[str], wanted: Sequence[str], mapping: Mapping[str, str], path: Path) -> dict[str, str]:
    """Our names -> the table's, for those of `wanted` that it holds. What is mapped must be there."""
    for ours in wanted:
        if ours in mapping and mapping[ours] not in found:
            raise DataError(f"{path}: ingest.columns.{ours} is {mapping[ours]!r}; the file holds {_list(found)}")
    taken = {mapping[ours] for ours in wanted if ours in mapping}
    names = {ours: mapping.get(ours) or _guess(ours, found, path, taken) for ours in wanted}
    return {ours: theirs for ours, theirs in names.items() if theirs is not None}


def require(names: Mapping[str, str], needed: Sequence[str], found: Sequence[str], path: Path) -> None:
    """Refuse a table without a column that it must have; says what is there and how to map it."""
    for ours in needed:
        if ours not in names:
            raise DataError(
                f"{path}: no column {ours}; it holds {_list(found)}; say which one it is in params.yaml: "
                f"ingest.columns: {{{ours}: ...}}"
            )


def _guess(ours: str, found: Sequence[str], path: Path, taken: set[str]) -> str | None:
    if ours in found:
        return ours
    aliases = ALIASES.get(ours, "").split()
    matches = [name for name in found if _plain(name) in aliases and name not in taken]
    if len(matches) > 1:
        choice = " or ".join(repr(name) for name in matches)
        raise DataError(f"{path}: {ours} may be {choice}; say which in params.yaml: ingest.columns.{ours}")
    return matches[0] if matches else None


def _list(names: Sequence[str]) -> str:
    shown = [repr(name if len(name) <= MOST_SHOWN else f"{name[:MOST_SHOWN]}...") for name in map(str, names)]
    rest = [f"{len(shown) - MOST_SHOWN} more"] if len(shown) > MOST_SHOWN else []
    return ", ".join([*shown[:MOST_SHOWN], *rest])


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", str(name).split(":")[0].lower())
