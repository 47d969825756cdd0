"""What lies at a path: which format, which file holds the events, which tables lie beside it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from config import params
from data.columns import EVENT_COLUMNS, EVENT_ID, EVENT_TYPE, ITEM, SESSION, USER
from data.errors import DataError
from data.readers import movielens, recbole
from data.readers.movielens import is_ratings_csv
from data.readers.raw import Table, as_text, head, is_dat, no_rows
from data.readers.recbole import INTERACTIONS, SIDES
from data.readers.side_tables import read_side
from data.readers.table import REQUIRED, SUFFIXES, check_map, read_table, require, resolve

_EVENT_FILES = ("events", "interactions", "ratings", "likes", "clicks", "purchases", "transactions")
_SIDE_FILES = {USER: ("u.user", "users.*"), ITEM: ("u.item", "movies.*", "items.*")}
_FILES = {"movielens-100k": "u.data", "movielens-dat": "ratings.dat", "movielens-csv": "ratings.csv"}


def detect(path: Path) -> str:
    """Which of movielens-100k, -dat and -csv, recbole and table lies at `path`, a file or a folder."""
    if not path.exists():
        raise DataError(f"{path} does not exist")
    if path.is_dir():
        if (path / "u.data").is_file():
            return "movielens-100k"
        if (path / "ratings.dat").is_file():
            return "movielens-dat"
        if (path / "ratings.csv").is_file() and is_ratings_csv(path / "ratings.csv"):
            return "movielens-csv"
        if _interactions(path):
            return "recbole"
        _only_table(path)
        return "table"
    if path.name == "u.data":
        return "movielens-100k"
    if path.suffix == INTERACTIONS:
        return "recbole"
    if is_dat(path):
        return "movielens-dat"
    if path.suffix == ".csv" and is_ratings_csv(path):
        return "movielens-csv"
    if head(path)[:4] == b"PAR1" or set(path.suffixes) & set(SUFFIXES):
        return "table"
    raise DataError(
        f"{path}: unknown format; expected u.data, ratings.dat, or a file {INTERACTIONS}, {', '.join(SUFFIXES)}"
    )


def locate(path: Path, name: str) -> tuple[Path, dict[str, Path]]:
    """The file of events, and the side tables that lie beside it: in a folder, of MovieLens, of RecBole."""
    if not path.exists():
        raise DataError(f"{path} does not exist")
    file = path
    if path.is_dir():
        file = _FINDS[name](path) if name in _FINDS else path / _FILES[name]
        if not file.is_file():
            raise DataError(f"{path} holds no {file.name}, which source {name} reads")
    elif name == "table":
        return file, {}
    if name == "recbole":
        beside = {key: file.with_suffix(suffix) for key, suffix in SIDES.items()}
        return file, {key: side for key, side in beside.items() if side.is_file()}
    found = {key: _first_match(file.parent, patterns) for key, patterns in _SIDE_FILES.items()}
    return file, {key: match for key, match in found.items() if match is not None}


def _only_table(folder: Path) -> Path:
    tables = sorted(part for part in folder.iterdir() if part.is_file() and set(part.suffixes) & set(SUFFIXES))
    named = [part for part in tables if part.name.split(".")[0].lower() in _EVENT_FILES]
    if len(named) == 1:
        return named[0]
    if len(tables) == 1:
        return tables[0]
    if not tables:
        raise DataError(f"{folder} holds nothing known: no u.data, ratings.dat, .inter, CSV, TSV or Parquet file")
    names = ", ".join(part.name for part in (named or tables))
    raise DataError(f"{folder} holds several tables ({names}); name the one with the events in ingest.path")


def _interactions(folder: Path) -> list[Path]:
    return sorted(part for part in folder.glob(f"*{INTERACTIONS}") if part.is_file())


def _only_interactions(folder: Path) -> Path:
    files = _interactions(folder)
    if not files:
        raise DataError(f"{folder} holds no {INTERACTIONS} file, which source recbole reads")
    if len(files) > 1:
        names = ", ".join(part.name for part in files)
        raise DataError(f"{folder} holds several {INTERACTIONS} files ({names}); name one in ingest.path")
    return files[0]


def _first_match(folder: Path, patterns: Sequence[str]) -> Path | None:
    known = {".dat", *SUFFIXES}
    for pattern in patterns:
        for match in sorted(folder.glob(pattern)):
            if match.name.startswith("u.") or match.suffix in known:
                return match
    return None


_FINDS: dict[str, Callable[[Path], Path]] = {"table": _only_table, "recbole": _only_interactions}


NAMED = ("table", "movielens-csv", "recbole")  # formats whose columns have names, which a map may name
TEXT = (EVENT_ID, USER, ITEM, EVENT_TYPE, SESSION)


@dataclass(frozen=True)
class Source:
    """Raw frames under our names, not validated; the index is the row's number in its file, from 1.

    Attributes:
        events: ids, types and sessions as text; times and values as the file writes them.
        users: user_id and traits, or None. items: item_id and what describes it, or None.
        broken: lines that could not be taken apart: table, source_row, raw, reason.
        impressions, oracle: the simulator's only.
    """

    name: str
    events: pd.DataFrame
    users: pd.DataFrame | None
    items: pd.DataFrame | None
    files: tuple[str, ...]
    broken: pd.DataFrame
    impressions: pd.DataFrame | None = None
    oracle: Any = None


def read(ingest: params.Ingest, simulate: params.Simulate, seed: int, context: Sequence[str] = ()) -> Source:
    """Read what `ingest` names; of further event columns those in `context` are kept.

    Raises:
        DataError: one line that names the file, column or key that is wrong.
    """
    if ingest.source == "simulator":
        return _simulated(ingest, simulate, seed)
    if ingest.path is None:
        raise DataError(f"ingest.path is null; source {ingest.source} needs a file or a folder")
    check_map(ingest.columns, context)
    path = Path(ingest.path).expanduser()
    name = detect(path) if ingest.source == "auto" else ingest.source
    file, side = locate(path, name)
    events = _events(file, name, ingest.columns, context)
    side |= {key: Path(given).expanduser() for key, given in ((USER, ingest.users), (ITEM, ingest.items)) if given}
    tables = {key: read_side(given, key, ingest.columns) for key, given in side.items()}
    _check_map_is_used(ingest.columns, [file, *side.values()], [events, *tables.values()])
    users, items = tables.get(USER), tables.get(ITEM)
    return Source(
        name=name,
        events=events.rows,
        users=None if users is None else users.rows,
        items=None if items is None else items.rows,
        files=tuple(str(part) for part in (file, *side.values())),
        broken=_all_broken({"events": events, "users": users, "items": items}),
    )


def _events(path: Path, name: str, mapping: Mapping[str, str], context: Sequence[str]) -> Table:
    table = _READERS[name](path)
    if name in NAMED:
        found = list(table.rows.columns)
        names = resolve(found, (*EVENT_COLUMNS, *context), mapping, path)
        require(names, REQUIRED, found, path)
        recbole.require_tokens(path, names, table.types)
        rows = pd.DataFrame({ours: table.rows[theirs] for ours, theirs in names.items()})
        table = Table(path, rows, table.broken, table.header)
    if table.rows.empty and table.broken.empty:
        raise DataError(f"{path} holds no rows")
    text = [name for name in (*TEXT, *context) if name in table.rows]
    kept = table.rows.assign(**{name: as_text(table.rows[name]) for name in text})
    return Table(path, kept, table.broken, table.header)


def _check_map_is_used(mapping: Mapping[str, str], files: list[Path], tables: list[Table | None]) -> None:
    """A map entry that finds no column anywhere is a typing error, and must not vanish."""
    held = {name for table in tables if table is not None for name in (table.header or table.rows.columns)}
    for ours, theirs in mapping.items():
        if theirs not in held:
            places = ", ".join(str(file) for file in files)
            raise DataError(f"ingest.columns.{ours} is {theirs!r}, which no table holds (looked in {places})")


def _all_broken(tables: Mapping[str, Table | None]) -> pd.DataFrame:
    parts = [table.broken.assign(table=name) for name, table in tables.items() if table is not None]
    filled = [part for part in parts if len(part)]
    return pd.concat(filled, ignore_index=True) if filled else no_rows().assign(table=[])


def _simulated(ingest: params.Ingest, settings: params.Simulate, seed: int) -> Source:
    for key in ("path", "users", "items"):
        if getattr(ingest, key) is not None:
            raise DataError(
                f"ingest.{key} is {getattr(ingest, key)!r}, but the simulator reads no file; set ingest.source: auto"
            )
    from data.simulate import simulate

    drawn = simulate(settings, seed)
    return Source(
        name="simulator",
        events=drawn.events,
        users=drawn.users,
        items=drawn.items,
        files=(),
        broken=no_rows().assign(table=[]),
        impressions=drawn.impressions,
        oracle=drawn.oracle,
    )


_READERS: dict[str, Callable[[Path], Table]] = {
    "movielens-100k": movielens.read_100k,
    "movielens-dat": movielens.read_dat,
    "movielens-csv": movielens.read_ratings_csv,
    "recbole": recbole.read_interactions,
    "table": read_table,
}
