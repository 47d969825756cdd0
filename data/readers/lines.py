"""Lines without a header, fields apart by a fixed separator: the MovieLens way."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from data.errors import DataError
from data.readers.raw import Table, as_text, head, no_rows, number_rows, read_text


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
