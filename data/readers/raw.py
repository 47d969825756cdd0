"""What every reader gives, and cells as text."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
from pandas.api.types import infer_dtype

from data.errors import DataError

_NO_TEXT = re.compile(rb"[\x00-\x08\x0e-\x19\x1b-\x1f]")  # all but white space, and the end that DOS wrote


def no_rows() -> pd.DataFrame:
    """An empty list of lines that could not be taken apart: source_row, raw (text), reason."""
    return pd.DataFrame({"source_row": pd.Series(dtype="int64"), "raw": [], "reason": []})


@dataclass(frozen=True)
class Table:
    """Rows under the file's own column names; the index is the row's number in the file, from 1."""

    path: Path
    rows: pd.DataFrame
    broken: pd.DataFrame = field(default_factory=no_rows)
    header: tuple[str, ...] = ()  # the file's own column names; () where the format has none
    types: Mapping[str, str] = field(default_factory=dict)  # column -> RecBole's type, where the format declares it


def head(path: Path) -> bytes:
    """The first 4096 bytes of a file that must be there and hold something."""
    if not path.exists():
        raise DataError(f"{path} does not exist")
    if not path.is_file():
        raise DataError(f"{path} is a folder; expected a file")
    if path.stat().st_size == 0:
        raise DataError(f"{path} is empty")
    with path.open("rb") as file:
        return file.read(4096)


def read_text(path: Path) -> str:
    """A text file in UTF-8, else Latin-1 (MovieLens 100K and 1M); its byte order mark left out."""
    if _NO_TEXT.search(head(path)):
        raise DataError(
            f"{path} is not text; readable formats: CSV, TSV, Parquet, MovieLens u.data and .dat, RecBole .inter"
        )
    raw = path.read_bytes()
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        return raw.decode("latin-1")


def as_text(values: pd.Series) -> pd.Series:
    """Cells as text, null where nothing is: 7 and 7.0 become "7", "007" stays."""
    filled = values.notna()
    if values.dtype.kind == "f" and (values[filled] % 1 == 0).all():
        values = values.astype("Int64")  # integers become floats where a file leaves one out
    text = values
    if values.dtype != object or infer_dtype(values, skipna=True) != "string":
        text = values.astype("string").astype(object)
    return text.where(filled & (text != ""), None)


def number_rows(frame: pd.DataFrame, skipped: set[int]) -> pd.DataFrame:
    """Give rows their numbers in the file, from 1, stepping over lines that were skipped."""
    total = len(frame) + len(skipped)
    numbers = [number for number in range(1, total + 1) if number not in skipped][: len(frame)]
    return frame.set_axis(pd.Index(numbers, name="source_row", dtype="int64"))


def read_lines(path: Path, separator: str, names: list[str]) -> Table:
    """Read a file whose every line holds `names` in this order, all as text.

    Lines with another number of fields come back in `broken`.
    """
    # Not splitlines: it also breaks at characters that Latin-1 titles may hold.
    lines = [line.removesuffix("\r") for line in read_text(path).split("\n")]
    filled = [line for line in lines if line.strip()]
    fields = [line.split(separator) for line in filled]
    wrong = {number for number, parts in enumerate(fields, 1) if len(parts) != len(names)}
    if len(wrong) == len(fields):
        found = f"its first line reads {filled[0][:60]!r}" if filled else "it holds blank lines only"
        raise DataError(f"{path}: expected lines of {separator.join(names)}; {found}")
    good = [parts for parts in fields if len(parts) == len(names)]
    columns = dict(zip(names, zip(*good, strict=True), strict=True))
    frame = pd.DataFrame({name: as_text(pd.Series(cells, dtype=object)) for name, cells in columns.items()})
    return Table(path, number_rows(frame, wrong), _broken(filled, fields, sorted(wrong), len(names)))


def first_line(path: Path) -> str:
    """The first line of a file, as far as it lies within the first 4096 bytes."""
    return head(path).decode("ascii", "surrogateescape").lstrip().split("\n")[0].strip()


def is_dat(path: Path) -> bool:
    """Whether fields stand apart by `::`, as in ratings.dat, and no suffix says otherwise."""
    return path.suffix not in (".csv", ".tsv", ".parquet", ".pq") and "::" in first_line(path)


def _broken(lines: list[str], fields: list[list[str]], wrong: list[int], expected: int) -> pd.DataFrame:
    if not wrong:
        return no_rows()
    return pd.DataFrame(
        {
            "source_row": wrong,
            "raw": [lines[number - 1] for number in wrong],
            "reason": [f"line has {len(fields[number - 1])} fields, not {expected}" for number in wrong],
        }
    )
