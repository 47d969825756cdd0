"""Read a file, or the files of a folder, as a raw table: by its content, whatever its name is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from config.params import TableFormat
from data.files import DataError
from data.readers.combine import concatenate
from data.readers.delimited import parse_rows, read_delimited
from data.readers.encodings import decode
from data.readers.json_records import is_json, read_json_table
from data.readers.packed import HEAD, Part, list_parts, read_head
from data.readers.parquet import MAGIC, read_parquet
from data.readers.table import RawTable, broken_lines

SUFFIXES = (".csv", ".tsv", ".txt", ".parquet", ".pq", ".json", ".jsonl", ".ndjson")


def head_of(path: Path) -> bytes:
    """The first bytes of a file, unpacked. Raises a DataError if the file is missing or empty."""
    if path.is_dir():
        raise DataError(f"{path} is a folder; expected a file")
    return read_head(list_parts(path)[0])


def first_line(path: Path) -> str:
    """The first line of a file, as far as it lies within its head."""
    return head_of(path).decode("ascii", "surrogateescape").lstrip().split("\n")[0].strip()


def is_dat(path: Path) -> bool:
    """Whether a file separates its fields by `::`, as ratings.dat does, and has no suffix of another format."""
    return path.is_file() and not has_table_suffix(path) and "::" in first_line(path)


def has_table_suffix(path: Path) -> bool:
    """Whether a file's name has the suffix of a table, in any case, also before that of a packed file."""
    return bool({suffix.lower() for suffix in path.suffixes} & set(SUFFIXES))


def read_lines(
    path: Path, separator: str, names: list[str], table_format: TableFormat, latin_1: bool = False
) -> RawTable:
    """Read a file without a header, whose lines hold the fields `names` as text.

    Lines with another number of fields come back in `broken`.

    Args:
        latin_1: the format's titles are in Latin-1 if they are not in UTF-8 (MovieLens 100K and 1M).
    """
    part = list_parts(path)[0]
    content = part.read()
    if latin_1 and table_format.encoding is None and not _is_utf_8(content):
        table_format = table_format.model_copy(update={"encoding": "latin-1"})
    content, encoding = decode(str(path), content, table_format)
    single = separator if len(separator) == 1 else "\x1f"
    content = content.replace(separator.encode(), single.encode())
    if not content.strip():
        raise DataError(f"{path}: expected lines of {separator.join(names)}; it holds blank lines only")
    frame, broken = parse_rows(str(path), content, single, None, encoding, [], len(names), has_header=False)
    broken = [(row, raw.replace(single, separator), reason) for row, raw, reason in broken]
    if frame.empty:
        raise DataError(
            f"{path}: expected lines of {separator.join(names)}; its first line reads {broken[0][1][:60]!r}"
        )
    found = part.describe("lines", len(frame) + len(broken), encoding=encoding, delimiter=separator)
    return RawTable(path, frame.set_axis(names, axis=1), broken_lines(*zip(*broken, strict=True)), found=found)


def _is_utf_8(content: bytes) -> bool:
    try:
        content.decode()
    except UnicodeDecodeError:
        return False
    return True


def read_named_columns(paths: Path | Sequence[Path], table_format: TableFormat) -> RawTable:
    """Read a table by its content: Parquet and JSON keep their types, CSV and TSV become text.

    Several files, or those of a folder, are parts of one table; their rows are numbered through. Raises a DataError if
    their columns differ.
    """
    roots = [paths] if isinstance(paths, Path) else list(paths)
    path = roots[0] if len(roots) == 1 else roots[0].parent
    parts = [part for root in roots for part in list_parts(root)]
    parts = [part for part in parts if has_table_suffix(Path(part.member or part.path))] or parts
    filled = [part for part in parts if part.read(1)]
    if not filled:
        raise DataError(f"{path} is empty")
    tables = [read_part(part, table_format) for part in filled]
    return tables[0] if len(tables) == 1 else concatenate(path, tables)


def read_part(part: Part, table_format: TableFormat) -> RawTable:
    """One file of a table."""
    head = read_head(part)
    types: dict[str, str] = {}
    layout: dict[str, Any] = {}
    broken: list[tuple[int, str, str]] = []
    if head.startswith(MAGIC):
        frame, types = read_parquet(part)
        found = part.describe("parquet", len(frame))
    elif Path(part.member or part.path).suffix.lower() in (".parquet", ".pq"):
        raise DataError(f"{part} is not a Parquet file: it does not begin with PAR1")
    else:
        content, encoding = decode(str(part), part.read(), table_format)
        if is_json(content[:HEAD]):
            frame, broken = read_json_table(part, content, encoding)
            kind = "JSON"
        else:
            frame, broken, layout = read_delimited(str(part), content, encoding, table_format)
            kind = "delimited text"
        found = part.describe(kind, len(frame) + len(broken), encoding=encoding, **layout)
    frame = frame.assign(**part.keys)
    lines = broken_lines(*zip(*broken, strict=True))
    return RawTable(part.path, frame, lines, tuple(frame.columns), types, found)
