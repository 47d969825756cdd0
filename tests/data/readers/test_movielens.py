"""The CSV files of MovieLens 20M, 25M, 32M and latest are known by their header and read with movies.csv."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from config import params
from data.cleaning import clean
from data.files import DataError
from data.readers.sources import detect_format, read_source

SIMULATE = params.load(Path(__file__).resolve().parents[3] / "params.yaml").simulate
RATINGS = ("userId,movieId,rating,timestamp", "1,31,2.5,1260759144", "1,1029,3.0,1260759179", "2,31,4.0,835355493")
MOVIES = (
    "movieId,title,genres",
    "31,Dangerous Minds (1995),Drama",
    '1029,"Dumbo, the Elephant (1941)",Animation|Children|Musical',
    "99,Nothing Known,(no genres listed)",
)


def write(path: Path, *lines: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path / "ml-latest-small" / "ratings.csv", *RATINGS)
    write(tmp_path / "ml-latest-small" / "movies.csv", *MOVIES)
    write(tmp_path / "ml-latest-small" / "tags.csv", "userId,movieId,tag,timestamp", "1,31,dull,1260759144")
    write(tmp_path / "ml-latest-small" / "links.csv", "movieId,imdbId,tmdbId", "31,0112792,9909")
    return tmp_path / "ml-latest-small"


@pytest.mark.parametrize("given", ["", "ratings.csv"])
def test_the_folder_and_its_ratings_are_known_and_take_the_movies_along(
    folder: Path, ingest_settings: Callable, given: str
) -> None:
    source = read_source(ingest_settings(path=str(folder / given)), SIMULATE, 0)

    assert source.name == detect_format(folder / given) == "movielens-csv"
    assert source.files == (str(folder / "ratings.csv"), str(folder / "movies.csv"))
    assert source.events.iloc[0].to_dict() == {
        "user_id": "1",
        "item_id": "31",
        "event_time": "1260759144",
        "value": "2.5",
    }
    assert source.items is not None
    assert source.items["title"].tolist()[1] == "Dumbo, the Elephant (1941)"
    assert source.items["genres"].tolist() == ["Drama", "Animation|Children|Musical", None]
    assert source.items["year"].tolist()[:2] == [1995.0, 1941.0]
    assert source.users is None


def test_a_header_in_quotes_behind_a_byte_order_mark_is_known(tmp_path: Path) -> None:
    path = tmp_path / "ratings.csv"
    path.write_bytes(b'\xef\xbb\xbf"userId","movieId","rating","timestamp"\r\n1,31,2.5,1260759144\r\n')

    assert detect_format(path) == "movielens-csv"


def test_bad_rows_go_to_quarantine_with_their_number(folder: Path, ingest_settings: Callable) -> None:
    write(folder / "ratings.csv", *RATINGS, "3,31,great,835355493", "3,31", ",31,1.0,835355493", "3,31,1.0,long ago")
    settings = ingest_settings(path=str(folder))

    found = clean(read_source(settings, SIMULATE, 0), settings)

    assert len(found.events) == 3
    assert found.quarantine[["source_row", "reason"]].to_numpy().tolist() == [
        [4, "value is not a number"],
        [5, "line has 2 fields, not 4"],
        [6, "user_id is blank"],
        [7, "event_time is not a time"],
    ]


def test_a_foreign_header_is_read_as_a_table(folder: Path, ingest_settings: Callable) -> None:
    write(folder / "ratings.csv", "user,movie_id,rating,time", "1,31,2.5,1260759144")

    assert read_source(ingest_settings(path=str(folder)), SIMULATE, 0).name == "table"


def test_a_folder_without_ratings_is_named(tmp_path: Path, ingest_settings: Callable) -> None:
    with pytest.raises(DataError, match=r"holds no ratings\.csv, which source movielens-csv reads"):
        read_source(ingest_settings(path=str(tmp_path), source="movielens-csv"), SIMULATE, 0)
