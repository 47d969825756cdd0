"""Find the format and the files at a path, and read events and side tables from them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from config import params
from data import columns
from data.columns import DESCRIPTION, EVENT_COLUMNS, EVENT_TIME, GENRES, ITEM, RELEASE_TIME, TITLE, USER
from data.files import DataError
from data.readers import movielens, recbole
from data.readers.table import (
    SUFFIXES,
    RawTable,
    broken_lines,
    check_mapping,
    is_dat,
    map_columns,
    read_head,
    read_named_columns,
    to_text,
)
from data.simulator.simulation import simulate
from data.tables import TIME_DTYPE
from data.time_columns import read_times

MAPPABLE_FORMATS = ("table", "movielens-csv", "recbole")  # formats with named columns, which ingest.columns may map
TEXT_COLUMNS = (columns.EVENT_ID, USER, ITEM, columns.EVENT_TYPE, columns.SESSION)
YEAR = "year"
REGION = "region"

_EVENT_FILES = ("events", "interactions", "ratings", "likes", "clicks", "purchases", "transactions")
_SIDE_FILES = {USER: ("u.user", "users.*"), ITEM: ("u.item", "movies.*", "items.*")}
_FILES = {"movielens-100k": "u.data", "movielens-dat": "ratings.dat", "movielens-csv": "ratings.csv"}
_ZIP_COLUMNS = ("zip", "zip_code", "zipcode", "postal_code", "postcode")
_ALWAYS_TEXT = (TITLE, GENRES, DESCRIPTION, columns.TRAINING_CONSENT, "occupation", REGION)


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
    file, side_files = locate_files(path, name)
    events = _read_events(file, name, ingest.columns, context)
    configured = ((USER, ingest.users), (ITEM, ingest.items))
    side_files |= {key: Path(value).expanduser() for key, value in configured if value}
    side_tables = {key: read_side_table(value, key, ingest.columns) for key, value in side_files.items()}
    tables = {"events": events, "users": side_tables.get(USER), "items": side_tables.get(ITEM)}
    files = [file, *side_files.values()]
    _require_mapping_used(ingest.columns, files, [table for table in tables.values() if table is not None])
    return Source(
        name=name,
        **{key: None if table is None else table.rows for key, table in tables.items()},
        files=tuple(map(str, files)),
        broken=_all_broken_lines(tables),
    )


def _read_simulator(ingest: params.Ingest, settings: params.Simulate, seed: int) -> Source:
    for key in ("path", "users", "items"):
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
    """The format at a path, a file or a folder: movielens-100k, -dat or -csv, recbole or table."""
    if path.is_dir():
        for name, file in _FILES.items():
            if (path / file).is_file() and (name != "movielens-csv" or movielens.is_ratings_csv(path / file)):
                return name
        return "recbole" if any(path.glob(f"*{recbole.INTERACTIONS}")) else "table"
    if path.name == "u.data":
        return "movielens-100k"
    if path.suffix == recbole.INTERACTIONS:
        return "recbole"
    if is_dat(path):
        return "movielens-dat"
    if path.suffix == ".csv" and movielens.is_ratings_csv(path):
        return "movielens-csv"
    if read_head(path)[:4] == b"PAR1" or set(path.suffixes) & set(SUFFIXES):
        return "table"
    suffixes = f"{recbole.INTERACTIONS}, {', '.join(SUFFIXES)}"
    raise DataError(f"{path}: unknown format; expected u.data, ratings.dat, or a file {suffixes}")


def locate_files(path: Path, name: str) -> tuple[Path, dict[str, Path]]:
    """The file of events, and the side tables next to it: in a folder, or of MovieLens or RecBole."""
    file = _find_events(path, name) if path.is_dir() else path
    if not file.exists():
        raise DataError(
            f"{file} does not exist" if file == path else f"{path} holds no {file.name}, which source {name} reads"
        )
    if name == "table" and file == path:
        return file, {}
    side_tables = {}
    for key, patterns in _SIDE_FILES.items():
        if name == "recbole":
            found = [file.with_suffix(recbole.SIDE_SUFFIXES[key])]
        else:
            found = [match for pattern in patterns for match in sorted(file.parent.glob(pattern))]
            found = [match for match in found if match.name.startswith("u.") or match.suffix in (".dat", *SUFFIXES)]
        if found and found[0].is_file():
            side_tables[key] = found[0]
    return file, side_tables


def _find_events(folder: Path, name: str) -> Path:
    if name in _FILES:
        return folder / _FILES[name]
    if name == "recbole":
        tables = sorted(folder.glob(f"*{recbole.INTERACTIONS}"))
    else:
        tables = sorted(part for part in folder.iterdir() if part.is_file() and set(part.suffixes) & set(SUFFIXES))
        tables = [part for part in tables if part.name.split(".")[0].lower() in _EVENT_FILES] or tables
    if not tables:
        raise DataError(f"{folder} holds nothing known: no u.data, ratings.dat, .inter, CSV, TSV or Parquet file")
    if len(tables) > 1:
        names = ", ".join(part.name for part in tables)
        raise DataError(f"{folder} holds several tables ({names}); name the one with the events in ingest.path")
    return tables[0]


# Events

_READERS: dict[str, Callable[[Path], RawTable]] = {
    "movielens-100k": movielens.read_100k,
    "movielens-dat": movielens.read_dat,
    "movielens-csv": read_named_columns,
    "recbole": recbole.read_atomic_file,
    "table": read_named_columns,
}


def _read_events(path: Path, name: str, mapping: Mapping[str, str], context: Sequence[str]) -> RawTable:
    table = _READERS[name](path)
    rows = table.rows
    if name in MAPPABLE_FORMATS:
        found = map_columns(table, (*EVENT_COLUMNS, *context), (USER, ITEM, EVENT_TIME), mapping)
        recbole.require_tokens(path, found, table.types)
        rows = pd.DataFrame({ours: rows[theirs] for ours, theirs in found.items()})
    if rows.empty and table.broken.empty:
        raise DataError(f"{path} holds no rows")
    rows = rows.assign(**{column: to_text(rows[column]) for column in (*TEXT_COLUMNS, *context) if column in rows})
    return RawTable(path, rows, table.broken, table.header)


# Side tables


def read_side_table(path: Path, key: str, mapping: Mapping[str, str]) -> RawTable | None:
    """Read users (key user_id) or items (key item_id): ids as text, other columns as numbers or text.

    Returns None if the file holds nothing but ids of another system (MovieTweetings' users).
    """
    table = _read_side(path, key, mapping)
    if table is None:
        return None
    rows = table.rows.assign(**{key: to_text(table.rows[key])})
    rows = _convert_items(rows, table.types) if key == ITEM else _convert_users(rows)
    others = [name for name in rows.columns if name not in (key, RELEASE_TIME)]
    # A declared token is a category even if it is written in digits.
    typed = {
        name: to_text(rows[name]) if table.types.get(name, "").startswith("token") else _number_or_text(rows[name])
        for name in others
    }
    return RawTable(path, rows.assign(**typed), table.broken, table.header)


def _read_side(path: Path, key: str, mapping: Mapping[str, str]) -> RawTable | None:
    is_recbole = path.suffix in recbole.SIDE_SUFFIXES.values()
    if path.name == "u.user" and key == USER:
        return movielens.users_100k(path)
    if path.name == "u.item" and key == ITEM:
        return movielens.items_100k(path)
    if not is_recbole and is_dat(path):
        return movielens.users_dat(path) if key == USER else movielens.items_dat(path)
    table = recbole.read_atomic_file(path) if is_recbole else read_named_columns(path)
    header = list(table.rows.columns)
    names = (key, columns.TRAINING_CONSENT) if key == USER else (key, TITLE, GENRES, DESCRIPTION, RELEASE_TIME)
    # The mapping may name columns of the events only; what this table lacks is found by name or alias.
    found = map_columns(table, names, (key,), {ours: name for ours, name in mapping.items() if name in header})
    recbole.require_tokens(path, found, table.types)
    if key == ITEM and table.types.get(recbole.GENRES_FIELD) == "token_seq":
        found.setdefault(GENRES, recbole.GENRES_FIELD)
    mapped = set(found.values())
    found |= {str(name): name for name in header if name not in mapped and name not in found}
    rows = pd.DataFrame({ours: table.rows[theirs] for ours, theirs in found.items()})
    types = {ours: table.types[theirs] for ours, theirs in found.items() if theirs in table.types}
    return RawTable(path, rows, table.broken, table.header, types)


def _convert_users(rows: pd.DataFrame) -> pd.DataFrame:
    """Keep only the first digit of a postal code: fewer values, and nobody's address."""
    for name in _ZIP_COLUMNS:
        if name in rows.columns:
            region = to_text(rows[name]).str.extract(r"^\s*(\d)", expand=False)
            rows = rows.drop(columns=name).assign(**{REGION: region.astype(object).where(region.notna(), None)})
    return rows


def _convert_items(rows: pd.DataFrame, types: Mapping[str, str]) -> pd.DataFrame:
    """Parse release times, separate genres by `|`, and extract the year of a title such as "Toy Story (1995)"."""
    if GENRES in rows.columns:
        genres = to_text(rows[GENRES])
        if types.get(GENRES) == "token_seq":
            genres = genres.map(lambda tokens: "|".join(tokens.split()), na_action="ignore")
        rows = rows.assign(**{GENRES: genres.mask(genres == movielens.NO_GENRES, None)})
    if RELEASE_TIME in rows.columns:
        rows = rows.assign(**{RELEASE_TIME: read_times(rows[RELEASE_TIME], "auto").astype(TIME_DTYPE)})
    if TITLE in rows.columns and YEAR not in rows.columns:
        year = to_text(rows[TITLE]).astype("string").str.extract(r"\((\d{4})\)\s*$", expand=False)
        if year.notna().any():
            rows = rows.assign(**{YEAR: pd.to_numeric(year).astype("float64")})
    return rows


def _number_or_text(values: pd.Series) -> pd.Series:
    """float64 if every value is a number; text otherwise, and for codes with leading zeros and flags."""
    if values.name in _ALWAYS_TEXT:
        return to_text(values)
    text = to_text(values).astype("string").str.strip()
    numbers = pd.to_numeric(text, errors="coerce").astype("float64")
    is_number = numbers.notna() == text.notna()
    if text.notna().any() and is_number.all() and not text.str.match(r"0\d").any():
        return numbers
    return to_text(values)
