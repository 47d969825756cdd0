"""Read MovieLens: 100K (u.data), the `::` files of 1M, 10M and MovieTweetings, the CSV files of 20M, 25M and 32M.

Formats: the README files of GroupLens (https://grouplens.org/datasets/movielens/) and of MovieTweetings
(Dooms et al., CrowdRec 2013).
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from config.params import TableFormat
from data.columns import EVENT_TIME, GENRES, ITEM, RELEASE_TIME, TITLE, USER, VALUE
from data.files import DataError
from data.readers.reading import first_line, read_lines
from data.readers.table import RawTable

ZIP = "zip"
_BYTE_ORDER_MARK = b"\xef\xbb\xbf".decode("ascii", "surrogateescape")
EVENTS = [USER, ITEM, VALUE, EVENT_TIME]
CSV_HEADER = "userId,movieId,rating,timestamp"
NO_GENRES = "(no genres listed)"  # how movies.csv writes an empty list
GENRES_100K = (
    "unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime", "Documentary", "Drama", "Fantasy",
    "Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi", "Thriller", "War", "Western",
)  # fmt: skip


def read_100k(path: Path, table_format: TableFormat) -> RawTable:
    """Read ratings from u.data: user, item, rating, epoch seconds, separated by tabs."""
    return read_lines(path, "\t", EVENTS, table_format)


def users_100k(path: Path, table_format: TableFormat) -> RawTable:
    """Read users from u.user."""
    return read_lines(path, "|", [USER, "age", "gender", "occupation", ZIP], table_format)


def items_100k(path: Path, table_format: TableFormat) -> RawTable:
    """Read items from u.item: title, release date, and 19 genre flags as text, "Animation|Comedy"."""
    table = read_lines(path, "|", [ITEM, TITLE, RELEASE_TIME, "video", "url", *GENRES_100K], table_format, latin_1=True)
    flags = table.rows[list(GENRES_100K)] == "1"
    genres = ["|".join(name for name, on in zip(GENRES_100K, row, strict=True) if on) for row in flags.to_numpy()]
    dates = pd.to_datetime(table.rows[RELEASE_TIME], format="%d-%b-%Y", errors="coerce", utc=True)
    rows = table.rows[[ITEM, TITLE]].assign(**{GENRES: genres, RELEASE_TIME: dates})
    return RawTable(path, rows, table.broken, found=table.found)


def read_dat(path: Path, table_format: TableFormat) -> RawTable:
    """Read ratings from ratings.dat: user, item, rating, epoch seconds, separated by `::`."""
    return read_lines(path, "::", EVENTS, table_format)


def users_dat(path: Path, table_format: TableFormat) -> RawTable | None:
    """Read users from users.dat; None for MovieTweetings, whose only other field is a Twitter id, not a trait."""
    fields = first_line(path).count("::") + 1
    if fields == 2:
        return None
    if fields != 5:
        raise DataError(f"{path}: lines have {fields} fields; expected UserID::Gender::Age::Occupation::Zip")
    return read_lines(path, "::", [USER, "gender", "age", "occupation", ZIP], table_format)


def items_dat(path: Path, table_format: TableFormat) -> RawTable:
    """Read items from movies.dat: title and genres, "Animation|Comedy"."""
    return read_lines(path, "::", [ITEM, TITLE, GENRES], table_format, latin_1=True)


def is_ratings_csv(path: Path) -> bool:
    """Whether a file has the header of MovieLens's ratings.csv."""
    return first_line(path).replace('"', "").removeprefix(_BYTE_ORDER_MARK) == CSV_HEADER
