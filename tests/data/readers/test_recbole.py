"""RecBole's atomic files: types are kept, side tables are found, and a header that cannot be is named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from config import params
from data.cleaning import clean
from data.files import DataError
from data.readers.sources import Source, detect_format, read_source

SIMULATE = params.load(Path(__file__).resolve().parents[3] / "params.yaml").simulate
INTERACTIONS = (
    "user_id:token\titem_id:token\trating:float\ttimestamp:float",
    "196\t242\t3\t881250949",
    "007\t302\tnan\t8.91717742e8",
)
USERS = (
    "user_id:token\tage:token\tgender:token\theight:float\tzip_code:token",
    "196\t49\tM\t180.5\t05201",
    "007\t24\tF\t\t94043",
)
ITEMS = (
    "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\tlength:float",
    '242\t"Kolya" is mine\t1996\tComedy\t90',
    "302\tL.A. Confidential\t1997\tCrime Film-Noir Mystery\t138",
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path / "ml-100k" / "ml-100k.inter", *INTERACTIONS)
    write(tmp_path / "ml-100k" / "ml-100k.user", *USERS)
    write(tmp_path / "ml-100k" / "ml-100k.item", *ITEMS)
    return tmp_path / "ml-100k"


@pytest.fixture
def read_from(ingest_settings: Callable) -> Callable[..., Source]:
    def run(path: Path, context: tuple[str, ...] = (), **changes: object) -> Source:
        return read_source(ingest_settings(path=str(path), **changes), SIMULATE, 0, context)

    return run


def write(path: Path, *lines: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.mark.parametrize("given", ["", "ml-100k.inter"])
def test_the_folder_and_its_interactions_are_known_and_take_the_sides_along(folder, read_from, given) -> None:
    source = read_from(folder / given)

    assert source.name == detect_format(folder / given) == "recbole"
    assert [Path(file).name for file in source.files] == ["ml-100k.inter", "ml-100k.user", "ml-100k.item"]
    assert source.events.to_dict("list") == {
        "user_id": ["196", "007"],
        "item_id": ["242", "302"],
        "event_time": ["881250949", "8.91717742e8"],
        "value": ["3", None],
    }


def test_a_token_stays_a_category_and_a_float_becomes_a_number(folder, read_from) -> None:
    users = read_from(folder).users

    assert users["age"].tolist() == ["49", "24"]
    assert users["height"].tolist()[0] == 180.5
    assert pd.isna(users["height"][2])
    assert users["region"].tolist() == ["0", "9"]


def test_sequences_of_tokens_become_titles_and_genres(folder, read_from) -> None:
    items = read_from(folder).items

    assert items["title"].tolist() == ['"Kolya" is mine', "L.A. Confidential"]
    assert items["genres"].tolist() == ["Comedy", "Crime|Film-Noir|Mystery"]
    assert items["length"].tolist() == [90.0, 138.0]


def test_fields_of_other_names_are_found_by_alias_or_map_and_context_is_kept(tmp_path, read_from) -> None:
    path = write(
        tmp_path / "shop.inter",
        "session:token\tvenue:token\tuser_id:token\ttime:float\tscreen:token",
        "s1\tv1\tu1\t1700000000\tphone",
    )

    events = read_from(path, ("device",), columns={"item_id": "venue", "device": "screen"}).events

    assert events[["user_id", "item_id", "event_time", "session_id", "device"]].iloc[0].tolist() == [
        "u1", "v1", "1700000000", "s1", "phone",
    ]  # fmt: skip


def test_bad_rows_go_to_quarantine(folder, ingest_settings) -> None:
    write(
        folder / "ml-100k.inter", *INTERACTIONS, "torn", "7\t8\tfour\t881250949", "7\t8\t4\tlate", "\t8\t4\t881250949"
    )
    write(folder / "ml-100k.item", *ITEMS, "8\tUp\t2009\tComedy")
    settings = ingest_settings(path=str(folder))

    found = clean(read_source(settings, SIMULATE, 0), settings).quarantine

    assert found[["table", "source_row", "reason"]].to_numpy().tolist() == [
        ["events", 3, "line has 1 fields, not 4"],
        ["events", 4, "value is not a number"],
        ["events", 5, "event_time is not a time"],
        ["events", 6, "user_id is blank"],
        ["items", 3, "line has 4 fields, not 5"],
    ]
    assert found["raw"].iloc[-1] == "8\tUp\t2009\tComedy"


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (
            "user_id\titem_id\ttimestamp",
            r"x\.inter: the header holds 'user_id'; expected field:type, separated by tabs",
        ),
        ("user_id:token\titem_id:text\ttime:float", r"'item_id:text'; expected .* token, token_seq, float, float_seq"),
        ("user_id:token,item_id:token,time:float", r"x\.inter: the header holds 'user_id:token,item_id:token,time"),
        ("user_id:token\titem_id:token\titem_id:float", r"x\.inter: the field 'item_id' is there twice"),
        (
            "user_id:token\titem_id:float\ttime:float",
            r"x\.inter: the field 'item_id', our item_id, has type float; expected token",
        ),
        (
            "user_id:token\titem_id:token\tn:float",
            r"x\.inter: no column event_time; it holds 'user_id', 'item_id', 'n'",
        ),
        ("user_id:token\t\ttime:float", r"x\.inter: the header holds ''; expected field:type"),
    ],
)
def test_a_broken_header_is_named_in_one_line(tmp_path, read_from, header, message) -> None:
    path = write(tmp_path / "x.inter", header, "u\t1\t1700000000")

    with pytest.raises(DataError, match=message) as error:
        read_from(path)
    assert "\n" not in str(error.value)


def test_side_tables_without_rows_or_values_tell_nothing(folder, read_from) -> None:
    write(folder / "ml-100k.item", ITEMS[0])
    write(folder / "ml-100k.user", "user_id:token\theight:float", "196\t", "007\tnan")

    source = read_from(folder)

    assert len(source.items) == 0
    assert source.users["height"].isna().all()


def test_files_without_rows_and_folders_without_one_file_are_named(tmp_path, read_from) -> None:
    write(tmp_path / "hollow.inter", INTERACTIONS[0])
    (tmp_path / "blank.inter").write_text("\n\n", encoding="utf-8")
    (tmp_path / "none").mkdir()
    write(tmp_path / "split" / "m.train.inter", *INTERACTIONS)
    write(tmp_path / "split" / "m.test.inter", *INTERACTIONS)

    for name, settings, message in [
        ("hollow.inter", {}, r"hollow\.inter holds no rows"),
        ("blank.inter", {}, r"blank\.inter holds blank lines only"),
        ("none", {"source": "recbole"}, r"none holds nothing known"),
        (
            "split",
            {},
            r"split holds several tables \(m\.test\.inter, m\.train\.inter\); name the one with the events in ingest\.path",
        ),
    ]:
        with pytest.raises(DataError, match=message):
            read_from(tmp_path / name, **settings)
