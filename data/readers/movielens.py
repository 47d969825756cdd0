"""MovieLens 100K (u.data) and the `::` files of MovieLens 1M, 10M and MovieTweetings.

Formats: the README files of GroupLens (https://grouplens.org/datasets/movielens/) and of MovieTweetings
(Dooms et al., CrowdRec 2013).
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from data.columns import EVENT_TIME, GENRES, ITEM, RELEASE_TIME, TITLE, USER, VALUE
from data.errors import DataError
from data.readers.lines import first_line, read_lines
from data.readers.raw import Table

ZIP = "zip"
EVENTS = [USER, ITEM, VALUE, EVENT_TIME]
GENRES_100K = [
    "unknown",
    "Action",
    "Adventure",
    "Animation",
    "Children's",
    "Comedy",
    "Crime",
    "Documentary",
    "Drama",
    "Fantasy",
    "Film-Noir",
    "Horror",
    "Musical",
    "Mystery",
    "Romance",
    "Sci-Fi",
    "Thriller",
    "War",
    "Western",
]


def read_100k(path: Path) -> Table:
    """Ratings of u.data: user, item, rating, epoch seconds, apart by tabs."""
    return read_lines(path, "\t", EVENTS)


def users_100k(path: Path) -> Table:
    """Users of u.user."""
    return read_lines(path, "|", [USER, "age", "gender", "occupation", ZIP])


def items_100k(path: Path) -> Table:
    """Items of u.item: title, release date, and 19 flags made into `genres` "Animation|Comedy"."""
    table = read_lines(path, "|", [ITEM, TITLE, RELEASE_TIME, "video", "url", *GENRES_100K])
    flags = table.rows[GENRES_100K] == "1"
    genres = ["|".join(name for name, on in zip(GENRES_100K, row, strict=True) if on) for row in flags.to_numpy()]
    dates = pd.to_datetime(table.rows[RELEASE_TIME], format="%d-%b-%Y", errors="coerce", utc=True)
    rows = table.rows[[ITEM, TITLE]].assign(**{GENRES: genres, RELEASE_TIME: dates})
    return Table(path, rows, table.broken)


def read_dat(path: Path) -> Table:
    """Ratings of ratings.dat: user, item, rating, epoch seconds, apart by `::`."""
    return read_lines(path, "::", EVENTS)


def users_dat(path: Path) -> Table | None:
    """Users of users.dat; None for MovieTweetings, whose second field is a Twitter id and no trait."""
    fields = first_line(path).count("::") + 1
    if fields == 2:
        return None
    if fields != 5:
        raise DataError(f"{path}: lines have {fields} fields; expected UserID::Gender::Age::Occupation::Zip")
    return read_lines(path, "::", [USER, "gender", "age", "occupation", ZIP])


def items_dat(path: Path) -> Table:
    """Items of movies.dat: title and genres "Animation|Comedy"."""
    return read_lines(path, "::", [ITEM, TITLE, GENRES])
