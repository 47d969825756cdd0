"""Read side tables of users and items: their columns, traits, genres and release times."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pandas as pd

from config.params import TableFormat
from data import columns
from data.columns import DESCRIPTION, GENRES, ITEM, RELEASE_TIME, TITLE, USER
from data.readers import mind, movielens, recbole
from data.readers.cells import join_values, read_trait
from data.readers.reading import is_dat, read_named_columns
from data.readers.table import RawTable, apply_na_values, map_columns, to_text
from data.time_columns import EARLIEST_RELEASE, holds_times, read_times

YEAR = "year"
REGION = "region"

_ZIP_COLUMNS = ("zip", "zip_code", "zipcode", "postal_code", "postcode")
_ALWAYS_TEXT = (TITLE, GENRES, DESCRIPTION, columns.TRAINING_CONSENT, "occupation", REGION)


def read_side_table(path: Path, key: str, mapping: Mapping[str, str], table_format: TableFormat) -> RawTable | None:
    """Read users (key user_id) or items (key item_id): ids as text, other columns as numbers or text.

    Returns None if the file holds nothing but ids of another system (MovieTweetings' users).
    """
    table = _read_side(path, key, mapping, table_format)
    return None if table is None else convert_side_table(table, key, table_format)


def convert_side_table(table: RawTable, key: str, table_format: TableFormat) -> RawTable:
    """Ids as text, other columns as numbers or text."""
    table = replace(table, rows=table.rows.assign(**{key: to_text(table.rows[key])}))
    table = apply_na_values(table, table_format, (key,), (TITLE, DESCRIPTION))
    rows, notes = _convert_items(table.rows, table.types) if key == ITEM else (_convert_users(table.rows), {})
    typed: dict[str, pd.Series] = {}
    for name in rows.columns:
        if name == key:
            continue
        # A declared token is a category even if it is written in digits.
        is_text = name in _ALWAYS_TEXT or table.types.get(name, "").startswith("token")
        if name == RELEASE_TIME or (not is_text and holds_times(rows[name])):
            typed[name], notes[name] = _read_times(rows[name], table_format)
            continue
        if is_text:
            typed[name] = to_text(rows[name])
            continue
        values, list_note = join_values(to_text(rows[name]), is_separated=False)
        typed[name], note = (values, list_note) if list_note else read_trait(rows[name])
        if note:
            notes[name] = note
    return replace(table, rows=rows.assign(**typed), found={**table.found, "cells": notes or None})


def _read_times(values: pd.Series, written: TableFormat) -> tuple[pd.Series, str]:
    """A column of release times, or of a trait that is a time, and its format. Cells that are no times have no value."""
    table = written.key.rpartition(".")[2]
    column = read_times(values, table, written.time_format, written.timezone, EARLIEST_RELEASE, periods=True)
    left_out = "".join(
        f"; {len(cells)} without value: {reason}, such as {values[cells.index[0]]!r}"
        for reason, cells in column.problems.groupby(column.problems)
    )
    return column.times, f"times: {column.found}{left_out}"


def _read_side(path: Path, key: str, mapping: Mapping[str, str], table_format: TableFormat) -> RawTable | None:
    is_recbole = path.suffix in recbole.SIDE_SUFFIXES.values()
    if path.name == "u.user" and key == USER:
        return movielens.users_100k(path, table_format)
    if path.name == "u.item" and key == ITEM:
        return movielens.items_100k(path, table_format)
    if not is_recbole and is_dat(path):
        return (movielens.users_dat if key == USER else movielens.items_dat)(path, table_format)
    if key == ITEM and mind.is_news(path):
        return mind.read_news(path, table_format)
    table = (recbole.read_atomic_file if is_recbole else read_named_columns)(path, table_format)
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
    return replace(table, rows=rows, types=types)


def _convert_users(rows: pd.DataFrame) -> pd.DataFrame:
    """Keep only the first digit of a postal code: fewer values, and nobody's address."""
    for name in _ZIP_COLUMNS:
        if name in rows.columns:
            region = to_text(rows[name]).str.extract(r"^\s*(\d)", expand=False)
            rows = rows.drop(columns=name).assign(**{REGION: region.astype(object).where(region.notna(), None)})
    return rows


def _convert_items(rows: pd.DataFrame, types: Mapping[str, str]) -> tuple[pd.DataFrame, dict[str, str]]:
    """Separate genres by `|`, and extract the year of a title such as "Toy Story (1995)".

    Also returns column -> what was found or changed in its cells.
    """
    notes: dict[str, str] = {}
    if GENRES in rows.columns:
        genres = to_text(rows[GENRES])
        if types.get(GENRES) == "token_seq":
            genres = genres.map(lambda tokens: "|".join(tokens.split()), na_action="ignore")
        genres, note = join_values(genres.mask(genres == movielens.NO_GENRES, None), is_separated=True)
        rows, notes = rows.assign(**{GENRES: genres}), {GENRES: note} if note else {}
    if TITLE in rows.columns and YEAR not in rows.columns:
        year = to_text(rows[TITLE]).astype("string").str.extract(r"\((\d{4})\)\s*$", expand=False)
        if year.notna().any():
            rows = rows.assign(**{YEAR: pd.to_numeric(year).astype("float64")})
    return rows, notes
