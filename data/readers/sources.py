"""Find the format and the files at a path, and read events from them."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd

from config import params
from data import columns
from data.columns import EVENT_COLUMNS, EVENT_TIME, ITEM, USER
from data.files import DataError
from data.readers import collected, mind, movielens, recbole
from data.readers.exports import EXPORTS, detect_export, read_export
from data.readers.json_records import is_json
from data.readers.nested import add_nested_columns
from data.readers.packed import is_visible
from data.readers.parquet import MAGIC
from data.readers.reading import (
    SUFFIXES,
    first_line,
    has_table_suffix,
    head_of,
    is_dat,
    read_named_columns,
)
from data.readers.side_tables import convert_side_table, read_side_table
from data.readers.table import (
    RawTable,
    apply_na_values,
    broken_lines,
    check_mapping,
    map_columns,
    to_text,
)
from data.simulator.simulation import simulate

MAPPABLE_FORMATS = ("table", "movielens-csv", "recbole")  # formats with named columns, which ingest.columns may map
TEXT_COLUMNS = (columns.EVENT_ID, USER, ITEM, columns.EVENT_TYPE, columns.SESSION)

_EVENT_FILES = ("events", "interactions", "ratings", "likes", "clicks", "purchases", "transactions")
_SIDE_NAMES = {USER: ("u.user", "users"), ITEM: ("u.item", "movies", "items")}  # of a file or its stem, or a folder
_FILES = {
    "movielens-100k": "u.data",
    "movielens-dat": "ratings.dat",
    "movielens-csv": "ratings.csv",
    "mind": "behaviors.tsv",
}
_BEGINS_LIKE = {"movielens-csv": movielens.is_ratings_csv, "mind": mind.is_behaviors}


@dataclass(frozen=True)
class Source:
    """Raw frames under the project's column names, not validated. The index is the row's number in its file, from 1.

    Ids, types and sessions are text; times and values are as the file writes them. `broken` holds lines that could not
    be parsed: table, source_row, raw, reason. Impressions and oracle come from the simulator only.
    """

    name: str
    events: pd.DataFrame
    users: pd.DataFrame | None
    items: pd.DataFrame | None
    files: tuple[str, ...]
    broken: pd.DataFrame
    found: dict[str, dict[str, Any]] = field(default_factory=dict)  # events, users, items -> `RawTable.found`
    impressions: pd.DataFrame | None = None
    oracle: Any = None


def read_source(ingest: params.Ingest, simulation: params.Simulate, seed: int, context: Sequence[str] = ()) -> Source:
    """Read the configured source, with the event columns of `context`.

    Raises DataError; the message names the file, column or key that is wrong.
    """
    if ingest.source == "simulator":
        return _read_simulator(ingest, simulation, seed)
    if ingest.path is None:
        raise DataError(f"ingest.path is null; source {ingest.source} needs a file or a folder")
    check_mapping(ingest.columns, context)
    path = Path(ingest.path).expanduser()
    name = detect_format(path) if ingest.source == "auto" else ingest.source
    if ingest.until is not None and name != collected.NAME:
        raise DataError(
            f"ingest.until is {ingest.until.isoformat()}; it applies to collected events only, not to {name}"
        )
    if ingest.source == "auto" and name in EXPORTS and ingest.columns:
        name = "table"  # the user says which columns to take
    event_files, side_files = locate_files(path, name)
    events = _read_events(event_files, name, ingest, context)
    configured = ((USER, ingest.users), (ITEM, ingest.items))
    side_files |= {key: Path(value).expanduser() for key, value in configured if value}
    formats = {USER: ingest.formats.users, ITEM: ingest.formats.items}
    side_tables = {key: read_side_table(value, key, ingest.columns, formats[key]) for key, value in side_files.items()}
    for key, rows in ((USER, events.users), (ITEM, events.items)):
        if rows is not None and key not in side_tables:
            facts = {"files": [str(events.path)], "format": "from the events"}
            side_tables[key] = convert_side_table(RawTable(events.path, rows, found=facts), key, formats[key])
    tables = {"events": events, "users": side_tables.get(USER), "items": side_tables.get(ITEM)}
    files = [*event_files, *side_files.values()]
    _require_mapping_used(ingest.columns, files, [table for table in tables.values() if table is not None])
    return Source(
        name=name,
        **{key: None if table is None else table.rows for key, table in tables.items()},
        files=tuple(map(str, files)),
        broken=_all_broken_lines(tables),
        found={key: dict(table.found) for key, table in tables.items() if table is not None},
    )


def _read_simulator(ingest: params.Ingest, settings: params.Simulate, seed: int) -> Source:
    for key in ("path", "until", "users", "items"):
        if getattr(ingest, key) is not None:
            raise DataError(
                f"ingest.{key} is {getattr(ingest, key)!r}, but the simulator reads no file; set ingest.source: auto"
            )
    return Source(name="simulator", files=(), broken=_all_broken_lines({}), **vars(simulate(settings, seed)))


def _require_mapping_used(mapping: Mapping[str, str], files: Sequence[Path], tables: Sequence[RawTable]) -> None:
    """Raise a DataError if a mapped column is in no table: a typing error must not go unnoticed."""
    present = {name for table in tables for name in (table.header or table.rows.columns)}
    for name, column in mapping.items():
        if column not in present:
            searched = ", ".join(str(file) for file in files)
            raise DataError(f"ingest.columns.{name} is {column!r}, which no table holds (looked in {searched})")


def _all_broken_lines(tables: Mapping[str, RawTable | None]) -> pd.DataFrame:
    parts = [table.broken.assign(table=name) for name, table in tables.items() if table is not None]
    filled = [part for part in parts if len(part)]
    return pd.concat(filled, ignore_index=True) if filled else broken_lines().assign(table=[])


# Formats and files


def detect_format(path: Path) -> str:
    """The format at a path, a file or a folder, as `ingest.source` names it."""
    if path.is_dir():
        if collected.is_collected(path):
            return collected.NAME
        for name, file in _FILES.items():
            if (path / file).is_file() and (name not in _BEGINS_LIKE or _BEGINS_LIKE[name](path / file)):
                return name
        if any(path.glob(f"*{recbole.INTERACTIONS}")):
            return "recbole"
        return detect_export(_find_events(path, "table")[0]) or "table"
    if path.name == "u.data":
        return "movielens-100k"
    if path.suffix == recbole.INTERACTIONS:
        return "recbole"
    if is_dat(path):
        return "movielens-dat"
    if path.suffix == ".csv" and movielens.is_ratings_csv(path):
        return "movielens-csv"
    if export := "mind" if mind.is_behaviors(path) else detect_export(path):
        return export
    head = head_of(path)
    if has_table_suffix(path) or head.startswith(MAGIC) or is_json(head) or re.search(r"[,\t;|\1]", first_line(path)):
        return "table"
    suffixes = f"{recbole.INTERACTIONS}, {', '.join(SUFFIXES)}"
    raise DataError(f"{path}: unknown format; expected u.data, ratings.dat, or a file {suffixes}")


def locate_files(path: Path, name: str) -> tuple[list[Path], dict[str, Path]]:
    """The files of events, and the side tables next to them: in a folder, or of MovieLens or RecBole.

    A table may be a folder, too, of parts in one or more files.
    """
    files = _find_events(path, name) if path.is_dir() and name != collected.NAME else [path]
    for file in files:
        if not file.exists():
            raise DataError(
                f"{file} does not exist" if file == path else f"{path} holds no {file.name}, which source {name} reads"
            )
    if name in ("table", collected.NAME, *EXPORTS) and files == [path]:
        return files, {}
    side_tables = {}
    for key, names in _SIDE_NAMES.items():
        found = [entry for wanted in names for entry in _visible(files[0].parent) if _is_side_table(entry, wanted)]
        if name == "recbole":
            found = [file for file in [files[0].with_suffix(recbole.SIDE_SUFFIXES[key])] if file.is_file()]
        if name == "mind":
            found = [file for file in [files[0].with_name(mind.NEWS_FILE)] if key == ITEM and file.is_file()]
        if found:
            side_tables[key] = found[0]
    return files, side_tables


def _visible(folder: Path) -> list[Path]:
    return sorted(entry for entry in folder.iterdir() if is_visible(entry, folder))


def _is_side_table(entry: Path, name: str) -> bool:
    if entry.is_dir() or entry.name == name:
        return entry.name == name
    return _stem(entry) == name and (has_table_suffix(entry) or entry.suffix == ".dat")


def _stem(entry: Path) -> str:
    """A name without suffixes, and without a date, the number of a part or a hash: events-2024-01-01.csv is `events`."""
    stem = entry.name.split(".")[0].lower()
    return "" if re.fullmatch(r"[0-9a-f-]{8,}", stem) else re.split(r"[-_ ]*\d", stem)[0]


def _find_events(folder: Path, name: str) -> list[Path]:
    if name in _FILES:
        return [folder / _FILES[name]]
    if name == "recbole":
        tables = sorted(folder.glob(f"*{recbole.INTERACTIONS}"))
        if len(tables) > 1:
            raise _several(folder, tables)
        if not tables:
            raise DataError(f"{folder} holds nothing known: no file {recbole.INTERACTIONS}")
        return tables
    sides = [side for names in _SIDE_NAMES.values() for side in names]
    entries = [entry for entry in _visible(folder) if not any(_is_side_table(entry, side) for side in sides)]
    # Hadoop's parts have no suffix: part-00000, 000000_0.
    files = [entry for entry in entries if entry.is_file() and has_table_suffix(entry)]
    files = files or [entry for entry in entries if entry.is_file() and re.match(r"part-|\d+_\d+$", entry.name)]
    folders = [entry for entry in entries if entry.is_dir()]
    named = [entry for entry in (*files, *folders) if _stem(entry) in _EVENT_FILES]
    tables = named or files
    if len({(_stem(entry), entry.suffix.lower()) for entry in tables}) > 1:
        raise _several(folder, tables)
    if not tables and any(file.is_file() for entry in folders for file in entry.rglob("*")):
        return folders
    if not tables:
        raise DataError(f"{folder} holds nothing known: no u.data, ratings.dat, .inter, CSV, TSV, JSON or Parquet file")
    return tables


def _several(folder: Path, tables: Sequence[Path]) -> DataError:
    names = ", ".join(table.name for table in tables)
    return DataError(
        f"{folder} holds several tables ({names}); name the one with the events in ingest.path, or put the parts of one "
        "table into a folder"
    )


# Events

_READERS: dict[str, Callable[[Path, params.TableFormat], RawTable]] = {
    "movielens-100k": movielens.read_100k,
    "movielens-dat": movielens.read_dat,
    "movielens-csv": read_named_columns,
    "recbole": recbole.read_atomic_file,
    "mind": mind.read_behaviors,
}


def _read_events(files: Sequence[Path], name: str, ingest: params.Ingest, context: Sequence[str]) -> RawTable:
    table_format = ingest.formats.events
    if name == "table":
        table = read_named_columns(files, table_format)
    elif name == collected.NAME:
        table = collected.read_collected(files[0], ingest.until, context)
    elif name in EXPORTS:
        table = read_export(files, name, table_format)
    else:
        table = _READERS[name](files[0], table_format)
    path = table.path
    rows = table.rows
    if name in MAPPABLE_FORMATS:
        rows = add_nested_columns(rows, ingest.columns.values())
        table = replace(table, rows=rows, header=tuple(rows.columns))
        found = map_columns(table, (*EVENT_COLUMNS, *context), (USER, ITEM, EVENT_TIME), ingest.columns)
        recbole.require_tokens(path, found, table.types)
        rows = pd.DataFrame({ours: rows[theirs] for ours, theirs in found.items()})
    if rows.empty and table.broken.empty:
        raise DataError(f"{path} holds no rows")
    rows = rows.assign(**{column: to_text(rows[column]) for column in (*TEXT_COLUMNS, *context) if column in rows})
    table = replace(table, rows=rows)
    return apply_na_values(table, table_format, (USER, ITEM), (columns.EVENT_TYPE,))
