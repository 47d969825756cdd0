"""Where events come from: the simulator, MovieLens and its kin, RecBole, any CSV, TSV or Parquet file."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

import params
from data.columns import EVENT_COLUMNS, EVENT_ID, EVENT_TYPE, ITEM, SESSION, USER
from data.errors import DataError
from data.readers import movielens, recbole
from data.readers.delimited import read_table
from data.readers.names import REQUIRED, check_map, require, resolve
from data.readers.places import detect, locate
from data.readers.raw import Table, as_text, no_rows
from data.readers.side import read_side

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
    from data.simulate import simulate  # only here: other sources need not pay for it

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
