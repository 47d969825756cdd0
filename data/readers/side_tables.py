"""Side tables: what is known of users and items, whatever file tells it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from data.columns import DESCRIPTION, GENRES, ITEM, RELEASE_TIME, TITLE, TRAINING_CONSENT, USER
from data.readers import movielens, recbole
from data.readers.raw import Table, as_text, is_dat
from data.readers.table import read_table, require, resolve
from data.time_columns import DTYPE, read_times

YEAR = "year"
REGION = "region"
_ZIPS = ("zip", "zip_code", "zipcode", "postal_code", "postcode")
_ALWAYS_TEXT = (TITLE, GENRES, DESCRIPTION, TRAINING_CONSENT, "occupation", REGION)


def read_side(path: Path, key: str, mapping: Mapping[str, str]) -> Table | None:
    """Read users (key user_id) or items (key item_id): ids as text, other columns numbers or text.

    None where the file tells nothing but ids that belong to nobody else (MovieTweetings' users).

    Raises:
        DataError: the file is missing or unreadable, or holds no column of ids.
    """
    table = _read(path, key, mapping)
    if table is None:
        return None
    rows = table.rows.assign(**{key: as_text(table.rows[key])})
    rows = _items(rows, table.types) if key == ITEM else _users(rows)
    plain = [name for name in rows.columns if name not in (key, RELEASE_TIME)]
    # A declared token is a category, be it written in digits.
    typed = {
        name: as_text(rows[name]) if table.types.get(name, "").startswith("token") else _number_or_text(rows[name])
        for name in plain
    }
    return Table(path, rows.assign(**typed), table.broken, table.header)


def _read(path: Path, key: str, mapping: Mapping[str, str]) -> Table | None:
    if path.name == "u.user" and key == USER:
        return movielens.users_100k(path)
    if path.name == "u.item" and key == ITEM:
        return movielens.items_100k(path)
    if path.suffix not in recbole.SIDES.values() and is_dat(path):
        return movielens.users_dat(path) if key == USER else movielens.items_dat(path)
    table = recbole.read_side(path) if path.suffix in recbole.SIDES.values() else read_table(path)
    found = list(table.rows.columns)
    wanted = (key, TRAINING_CONSENT) if key == USER else (key, TITLE, GENRES, DESCRIPTION, RELEASE_TIME)
    # The map may name the events' columns only: what this table lacks is found by name or alias.
    names = resolve(found, wanted, {ours: name for ours, name in mapping.items() if name in found}, path)
    require(names, (key,), found, path)
    recbole.require_tokens(path, names, table.types)
    if key == ITEM and GENRES not in names and (field := recbole.genres_field(table.types)):
        names[GENRES] = field
    theirs = set(names.values())
    named = {ours: table.rows[name] for ours, name in names.items()}
    others = {str(name): table.rows[name] for name in found if name not in theirs and name not in names}
    types = {ours: table.types[name] for ours, name in names.items() if name in table.types}
    types |= {name: table.types[name] for name in others if name in table.types}
    return Table(path, pd.DataFrame(named | others), table.broken, table.header, types)


def _users(rows: pd.DataFrame) -> pd.DataFrame:
    """Of a postal code only the first digit stays: fewer values, and nobody's address."""
    for name in _ZIPS:
        if name in rows.columns:
            region = as_text(rows[name]).str.extract(r"^\s*(\d)", expand=False)
            rows = rows.drop(columns=name).assign(**{REGION: region.astype(object).where(region.notna(), None)})
    return rows


def _items(rows: pd.DataFrame, types: Mapping[str, str]) -> pd.DataFrame:
    """Times of release as times, genres apart by `|`, and the year in a title like "Toy Story (1995)"."""
    if GENRES in rows.columns:
        genres = as_text(rows[GENRES])
        if types.get(GENRES) == "token_seq":
            genres = genres.map(lambda tokens: "|".join(tokens.split()), na_action="ignore")
        rows = rows.assign(**{GENRES: genres.mask(genres == movielens.NO_GENRES, None)})
    if RELEASE_TIME in rows.columns:
        rows = rows.assign(**{RELEASE_TIME: read_times(rows[RELEASE_TIME], "auto").astype(DTYPE)})
    if TITLE in rows.columns and YEAR not in rows.columns:
        year = as_text(rows[TITLE]).astype("string").str.extract(r"\((\d{4})\)\s*$", expand=False)
        if year.notna().any():
            rows = rows.assign(**{YEAR: pd.to_numeric(year).astype("float64")})
    return rows


def _number_or_text(values: pd.Series) -> pd.Series:
    """Numbers as float64 where every value is one; codes with leading zeros, flags and the rest as text."""
    if values.name in _ALWAYS_TEXT:
        return as_text(values)
    text = as_text(values).astype("string").str.strip()
    numbers = pd.to_numeric(text, errors="coerce").astype("float64")
    is_number = numbers.notna() == text.notna()
    if text.notna().any() and is_number.all() and not text.str.match(r"0\d").any():
        return numbers
    return as_text(values)
