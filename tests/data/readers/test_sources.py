"""Every format ends as the same columns, and what cannot be read is named in one line."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from table_files import write_lines

from config import params
from data.cleaning import clean
from data.files import DataError
from data.readers.sources import detect_format, read_source

SIMULATE = params.load(Path(__file__).resolve().parents[3] / "params.yaml").simulate


def flags(*names: str) -> str:
    order = [
        "unknown",
        "Action",
        "Adventure",
        "Animation",
        "Children's",
        "Comedy",
        "Crime",
        "Documentary",
        "Drama",
    ]
    return "|".join("1" if name in names else "0" for name in [*order, *[""] * 10])


@pytest.fixture
def movielens_100k(tmp_path):
    folder = tmp_path / "ml-100k"
    write_lines(folder / "u.data", "196\t242\t3\t881250949", "7\t1\t5\t891717742")
    write_lines(
        folder / "u.item",
        f"242|Kolya (1996)|24-Jan-1997||http://x|{flags('Comedy', 'Drama')}",
        f"1|Misérables, Les (1995)|01-Jan-1995||http://x|{flags('Drama')}",
        f"267|unknown||||{flags('unknown')}",
        encoding="latin-1",
    )
    write_lines(folder / "u.user", "196|49|M|writer|05201", "7|57|F|artist|V3N4P")
    return folder


def test_movielens_100k_is_known_by_its_folder_and_read_with_its_side_tables(movielens_100k, read_from):
    source = read_from(movielens_100k)

    assert source.name == detect_format(movielens_100k) == "movielens-100k"
    assert source.events.to_dict("list") == {
        "user_id": ["196", "7"],
        "item_id": ["242", "1"],
        "value": ["3", "5"],
        "event_time": ["881250949", "891717742"],
    }
    assert source.items["title"].tolist() == ["Kolya (1996)", "Misérables, Les (1995)", "unknown"]
    assert source.items["genres"].tolist() == ["Comedy|Drama", "Drama", "unknown"]
    assert source.items["year"].tolist()[:2] == [1996.0, 1995.0]
    assert source.items["release_time"][1] == pd.Timestamp("1997-01-24", tz="UTC")
    assert source.items["release_time"].isna().tolist() == [False, False, True]
    assert source.users["age"].tolist() == [49.0, 57.0]
    assert source.users["occupation"].tolist() == ["writer", "artist"]


def test_the_file_u_data_itself_reads_like_its_folder(movielens_100k, read_from):
    source = read_from(movielens_100k / "u.data")

    assert len(source.events) == 2
    assert len(source.items) == 3


def test_dat_files_keep_leading_zeros_and_drop_twitter_ids(tmp_path, read_from):
    write_lines(tmp_path / "ratings.dat", "1::0114508::8::1381006850", "2::0104257::9::1364690142")
    write_lines(tmp_path / "movies.dat", "0114508::Species: II (1995)::Action|Horror", "0104257::Le Bébé (1992)::")
    write_lines(tmp_path / "users.dat", "1::18405182", "2::31260677")

    source = read_from(tmp_path)

    assert source.name == "movielens-dat"
    assert source.events["item_id"].tolist() == ["0114508", "0104257"]
    assert source.items["title"].tolist() == ["Species: II (1995)", "Le Bébé (1992)"]
    assert source.items["genres"].tolist() == ["Action|Horror", None]
    assert source.items["year"].tolist() == [1995.0, 1992.0]
    assert source.users is None


@pytest.mark.parametrize(
    "header",
    [
        "user_id,item_id,event_time",
        "userId,movieId,timestamp",
        "User ID,product-id,ts",
        "user_id:token,item_id:token,timestamp:float",
        "customer_id\tarticle_id\tdatetime",
        "uid;iid;time",
    ],
)
def test_common_column_names_need_no_map(tmp_path, read_from, header):
    delimiter = next(mark for mark in ",\t;" if mark in header)
    path = write_lines(tmp_path / "log.csv", header, delimiter.join(["007", "a", "1700000000"]))

    events = read_from(path).events

    assert events[["user_id", "item_id", "event_time"]].iloc[0].tolist() == ["007", "a", "1700000000"]


def test_the_map_wins_and_context_is_kept(tmp_path, read_from):
    path = write_lines(tmp_path / "shop.csv", "buyer,user_id,sku,when,screen,junk", "b1,seller,s1,2024-01-01,phone,zzz")

    events = read_from(
        path,
        context=("device",),
        columns={"user_id": "buyer", "event_time": "when", "device": "screen"},
    ).events

    assert events.to_dict("records") == [
        {"user_id": "b1", "item_id": "s1", "event_time": "2024-01-01", "device": "phone"}
    ]


def test_parquet_integers_become_text_ids_even_where_one_is_missing(tmp_path, read_from):
    path = tmp_path / "likes.parquet"
    pd.DataFrame({"user_id": [1, None], "movie_id": [858, 593], "timestamp": [956703932, 956703954]}).to_parquet(path)

    events = read_from(path).events

    assert events["user_id"].tolist() == ["1", None]
    assert events["item_id"].tolist() == ["858", "593"]


def test_a_folder_with_one_table_of_events_takes_its_side_tables_along(tmp_path, read_from):
    write_lines(tmp_path / "ratings.csv", "userId,movieId,rating,timestamp", "1,31,2.5,1260759144")
    write_lines(tmp_path / "movies.csv", "movieId,title,genres", '31,"Dangerous Minds (1995)",Drama')
    write_lines(tmp_path / "tags.csv", "userId,movieId,tag,timestamp", "1,31,dull,1260759144")

    source = read_from(tmp_path)

    assert source.events["value"].tolist() == ["2.5"]
    assert source.items["title"].tolist() == ["Dangerous Minds (1995)"]


def test_an_id_that_reads_na_is_an_id(tmp_path, read_from):
    path = write_lines(tmp_path / "log.csv", "user_id,item_id,event_time", "NA,null,2024-01-01", ",i,2024-01-01")

    events = read_from(path).events

    assert events["user_id"].tolist() == ["NA", None]
    assert events["item_id"].tolist() == ["null", "i"]


def format_of(**changes: object) -> dict[str, dict]:
    """`ingest.formats` with these settings for every table."""
    plain = {"encoding": None, "delimiter": None, "quote": '"', "na_values": [], "time_format": None, "timezone": "UTC"}
    return dict.fromkeys(("events", "users", "items"), plain | changes)


def test_na_values_are_no_value_in_typed_columns_and_no_id(tmp_path, read_from):
    path = write_lines(
        tmp_path / "log.csv",
        "user_id,item_id,event_time,rating,received_at,session_id",
        r"u,i,2024-01-01,\N,\N,\N",
        "u,NA,2024-01-01,4,2024-01-02,s",
        "NAN,i,2024-01-01,4,2024-01-02,s",
    )

    source = read_from(path, formats=format_of(na_values=["NA", r"\N"]))

    assert source.events["user_id"].tolist() == ["u", "NAN"]
    assert source.events.loc[1, ["value", "known_time", "session_id"]].isna().all()
    assert source.broken[["table", "source_row", "reason"]].to_numpy().tolist() == [
        ["events", 2, "item_id is 'NA', one of ingest.formats.events.na_values"]
    ]
    assert '"user_id": "u"' in source.broken["raw"][0]


def test_encoding_delimiter_and_quote_can_be_set(tmp_path, read_from):
    path = write_lines(tmp_path / "log.csv", "user_id:item_id:event_time", "'Иван:1':i:5", encoding="cp1251")

    source = read_from(path, formats=format_of(encoding="cp1251", delimiter=":", quote="'"))

    assert source.events.iloc[0].tolist() == ["Иван:1", "i", "5"]
    assert source.found["events"] == {
        "files": [str(path)],
        "format": "delimited text",
        "compression": None,
        "encoding": "cp1251",
        "delimiter": ":",
        "quote": "'",
        "rows": 1,
        "rows_per_file": [1],
    }


def test_csv_in_quotes_with_commas_line_breaks_and_a_byte_order_mark(tmp_path, read_from):
    path = tmp_path / "log.csv"
    path.write_bytes(b'\xef\xbb\xbfuser_id,item_id,event_time\r\n"a,b","x\ny",2024-01-01\r\n')

    assert read_from(path).events.iloc[0].tolist() == ["a,b", "x\ny", "2024-01-01"]


def test_lines_of_the_wrong_length_are_kept_with_their_number(tmp_path, read_from):
    path = write_lines(tmp_path / "log.csv", "user_id,item_id,event_time", "a,i,1", "torn", "b,j,2", "c,k,3,4")

    source = read_from(path)

    assert source.events.index.tolist() == [1, 3]
    assert source.broken[["source_row", "raw"]].to_numpy().tolist() == [[2, "torn"], [4, "c,k,3,4"]]


GOOD = ("user_id,item_id,event_time", "a,i,2024-01-01")


@pytest.mark.parametrize(
    ("lines", "changes", "message"),
    [
        (
            ("who,item_id,event_time", "a,i,1"),
            {},
            r"no column user_id; it holds 'who', 'item_id', 'event_time'",
        ),
        (
            GOOD,
            {"columns": {"usr_id": "a"}},
            r"ingest\.columns\.usr_id is none of our columns; they are event_id",
        ),
        (
            GOOD,
            {"columns": {"value": "stars"}},
            r"ingest\.columns\.value is 'stars'; the file holds 'user_id'",
        ),
        (GOOD, {"columns": {"title": "nam"}}, r"ingest\.columns\.title is 'nam', which no table holds"),
        (
            ("user_id,movie_id,sku,event_time", "a,i,j,1"),
            {},
            r"item_id may be 'movie_id' or 'sku'; say which",
        ),
        (("user_id,user_id,item_id,time", "a,b,i,1"), {}, r"the column 'user_id' is there twice"),
        (("user_id,item_id,event_time",), {}, r"log\.csv holds no rows"),
        (("", ""), {}, r"log\.csv holds blank lines only"),
        (GOOD, {"source": "movielens-100k"}, r"expected lines of"),
        (GOOD, {"items": "nowhere.csv"}, r"nowhere\.csv does not exist"),
    ],
)
def test_a_wrong_table_is_named_in_one_line(tmp_path, read_from, lines, changes, message):
    path = write_lines(tmp_path / "log.csv", *lines)

    with pytest.raises(DataError, match=message) as error:
        read_from(path, **changes)
    assert "\n" not in str(error.value)


def test_missing_empty_and_foreign_files_are_refused(tmp_path, read_from):
    (tmp_path / "empty.csv").touch()
    (tmp_path / "picture.csv").write_bytes(b"\x89PNG\0\0")
    (tmp_path / "torn.parquet").write_bytes(b"PAR1 and then nothing")
    write_lines(tmp_path / "notes.doc", "hello")
    (tmp_path / "hollow").mkdir()

    for name, message in {
        "gone.csv": "gone.csv does not exist",
        "empty.csv": "empty.csv is empty",
        "picture.csv": "picture.csv is not text",
        "torn.parquet": "torn.parquet is not a readable Parquet file",
        "notes.doc": "notes.doc: unknown format",
        "hollow": "hollow holds nothing known",
    }.items():
        with pytest.raises(DataError, match=message):
            read_from(tmp_path / name)


def test_a_folder_with_several_tables_asks_which(tmp_path, read_from):
    write_lines(tmp_path / "a.csv", *GOOD)
    write_lines(tmp_path / "b.csv", *GOOD)

    with pytest.raises(DataError, match=r"several tables \(a\.csv, b\.csv\)"):
        read_from(tmp_path)


def test_a_path_and_a_source_must_fit(ingest_settings):
    with pytest.raises(DataError, match=r"ingest\.path is null"):
        read_source(ingest_settings(), SIMULATE, 0)
    with pytest.raises(DataError, match=r"ingest\.path is 'x\.csv', but the simulator reads no file"):
        read_source(ingest_settings(source="simulator", path="x.csv"), SIMULATE, 0)


def test_real_sets_are_known_by_their_folders(real_data, read_from):
    sizes = {}
    for name in ("ml-100k", "ml-1m-likes", "movietweetings-100k"):
        source = read_from(real_data / name)
        users = 0 if source.users is None else len(source.users)
        sizes[name] = (source.name, len(source.events), users, len(source.broken))

    assert sizes == {
        "ml-100k": ("movielens-100k", 100_000, 943, 0),
        "ml-1m-likes": ("table", 575_281, 6_040, 0),
        "movietweetings-100k": ("movielens-dat", 100_000, 0, 0),
    }


def test_float_ids_that_lost_digits_go_to_quarantine(tmp_path, ingest_settings):
    path = tmp_path / "likes.parquet"
    ids = [7.0, 2.0**53, 9.1e18, None]
    pd.DataFrame({"user_id": ids, "item_id": ["a", "b", "c", "d"], "event_time": "2024-01-01"}).to_parquet(path)
    settings = ingest_settings(path=str(path))

    result = clean(read_source(settings, SIMULATE, 0), settings)

    assert result.events["user_id"].tolist() == ["7"]
    assert sorted(result.quarantine["reason"]) == [
        "user_id is a float whose last digits are lost; write ids as integers or text",
        "user_id is a float whose last digits are lost; write ids as integers or text",
        "user_id is blank",
    ]
