"""Exports of tracking tools and public logs, in their documented shape, are known by their content."""

from __future__ import annotations

import gzip
import json
import re
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from config import params
from data import ingest
from data.files import DataError
from data.readers.combine import locate_rows
from data.readers.exports import EXPORTS, detect_export
from data.readers.sources import Source, detect_format, read_source
from experiments.orchestration.workspace import parse_columns

SIMULATE = params.load(Path(__file__).resolve().parents[3] / "params.yaml").simulate

OTTO = [
    {
        "session": 12899779,
        "events": [
            {"aid": 59625, "ts": 1661724000278, "type": "clicks"},
            {"aid": 1142000, "ts": 1661724000378, "type": "carts"},
        ],
    },
    {"session": 12899780, "events": [{"aid": 59625, "ts": 1661724000478, "type": "orders"}]},
]


def call(number: int, **changes: object) -> dict:
    """A track call of Segment."""
    return {
        "type": "track",
        "event": "Product Viewed",
        "userId": "u1",
        "anonymousId": "a1",
        "messageId": f"m{number}",
        "timestamp": f"2024-01-31T22:{number:02}:00.123Z",
        "originalTimestamp": f"2024-01-31T22:{number:02}:01.000Z",
        "receivedAt": f"2024-01-31T22:{number:02}:02.000Z",
        "properties": {"product_id": "p1", "name": "Hat", "category": "Clothes", "brand": "Acme", "price": 12.5},
        "context": {"library": {"name": "analytics.js"}, "device": {"type": "ios"}},
        **changes,
    }


def ga4_event(number: int, **changes: object) -> dict:
    """An event of GA4's export, as BigQuery writes it in JSON: int64 is text."""
    return {
        "event_date": "20210131",
        "event_timestamp": str(1612069510766593 + number),
        "event_name": "view_item",
        "event_params": [{"key": "ga_session_id", "value": {"int_value": "661084800"}}],
        "user_pseudo_id": "1026454.4271112504",
        "device": {"category": "mobile", "language": "en-us"},
        "items": [{"item_id": "G906", "item_name": "Hoodie", "item_brand": "(not set)", "item_category": "Men", "price": 59.0}],
        **changes,
    }  # fmt: skip


@pytest.fixture
def read_from(ingest_settings):
    """Read a path with the given settings of `ingest`."""

    def run(path: Path, context: tuple[str, ...] = (), **changes: object) -> Source:
        return read_source(ingest_settings(path=str(path), **changes), SIMULATE, 0, context)

    return run


def write_lines(path: Path, *records: object) -> Path:
    """Write JSON lines; text is written as it is."""
    lines = [record if isinstance(record, str) else json.dumps(record) for record in records]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def columns(source: Source, *names: str) -> list[tuple]:
    rows = source.events[list(names)]
    return list(rows.astype(object).where(rows.notna(), None).itertuples(index=False, name=None))


# OTTO


def test_each_event_of_an_otto_session_is_a_row(tmp_path, read_from):
    source = read_from(write_lines(tmp_path / "train.jsonl", *OTTO))

    assert source.name == "otto"
    assert columns(source, "user_id", "item_id", "event_time", "event_type", "record") == [
        ("12899779", "59625", 1661724000278, "clicks", 1),
        ("12899779", "1142000", 1661724000378, "carts", 1),
        ("12899780", "59625", 1661724000478, "orders", 2),
    ]
    assert source.events.index.tolist() == [1, 2, 3]


def test_broken_otto_lines_are_quarantined_and_the_others_stay(tmp_path, read_from):
    cut = json.dumps(OTTO[1])[:40]
    path = write_lines(tmp_path / "train.jsonl", OTTO[0], '{"session": 5, "events": "none"}', "7", "", OTTO[1], cut)

    source = read_from(path)

    assert source.events["user_id"].tolist() == ["12899779", "12899779", "12899780"]
    assert source.events["record"].tolist() == [1, 1, 4]
    assert source.broken["source_row"].tolist() == [2, 3, 5]
    assert source.broken["raw"].tolist() == ['{"session": 5, "events": "none"}', "7", cut]
    assert source.broken["reason"].tolist()[:2] == [
        "events is one value; expected an array",
        "is not a JSON object",
    ]
    assert source.broken["reason"][2].startswith("is not JSON: ")


def test_a_session_without_events_is_not_lost_in_silence(tmp_path, read_from):
    source = read_from(write_lines(tmp_path / "train.jsonl", OTTO[0], {"session": 8}, {"session": 9, "events": []}))

    assert columns(source, "user_id", "item_id")[2:] == [("8", None), ("9", None)]


def test_ids_beyond_64_bits_and_of_another_type_stay_exact(tmp_path, read_from):
    big = {"session": 10**22 + 1, "events": [{"aid": "a7", "ts": 1661724000278, "type": "clicks"}]}

    source = read_from(write_lines(tmp_path / "train.jsonl", OTTO[1], big))

    assert columns(source, "user_id", "item_id") == [("12899780", "59625"), ("10000000000000000000001", "a7")]


# Segment


def test_a_track_call_is_an_event_with_its_own_id_and_known_time(tmp_path, read_from):
    source = read_from(write_lines(tmp_path / "calls.json", call(1)), context=("device",))

    assert source.name == "segment"
    names = ("event_id", "user_id", "item_id", "event_time", "known_time", "event_type", "device")
    assert columns(source, *names) == [
        ("m1", "u1", "p1", "2024-01-31T22:01:00.123Z", "2024-01-31T22:01:02.000Z", "Product Viewed", "ios")
    ]


def test_each_product_of_an_order_is_an_event_with_an_id_of_its_own(tmp_path, read_from):
    products = [{"product_id": "p1", "price": "12.50"}, {"product_id": "", "sku": "s2", "name": "Cap"}]
    order = call(2, event="Order Completed", properties={"order_id": "o1", "products": products})

    source = read_from(write_lines(tmp_path / "calls.json", call(1), order))

    assert columns(source, "event_id", "item_id", "event_type") == [
        ("m1", "p1", "Product Viewed"),
        ("m2#1", "p1", "Order Completed"),
        ("m2#2", "s2", "Order Completed"),
    ]


def test_the_user_is_the_user_id_and_else_the_anonymous_id(tmp_path, read_from):
    path = write_lines(tmp_path / "calls.json", call(1), call(2, userId=None), call(3, userId=""), call(4, userId=17))

    assert read_from(path).events["user_id"].tolist() == ["u1", "a1", "a1", "17"]


def test_calls_without_a_product_are_counted_by_name_and_not_quarantined(tmp_path, read_from):
    page = {"type": "page", "name": "Home", "userId": "u1", "messageId": "m8", "timestamp": "2024-01-31T22:15:00Z"}
    identify = {"type": "identify", "userId": "u1", "messageId": "m9", "traits": {"plan": "free"}}
    signed_up = call(3, event="Signed Up", properties={"plan": "free"})

    source = read_from(write_lines(tmp_path / "calls.json", page, call(1), identify, signed_up, page))

    assert source.events["event_id"].tolist() == ["m1"]
    assert source.broken.empty
    assert source.found["events"]["without_item"] == {"page": 2, "identify": 1, "Signed Up": 1}
    assert source.found["events"]["rows"] == 5


def test_items_have_the_newest_traits_that_events_name(tmp_path, read_from):
    newest = call(9, properties={"product_id": "p1", "price": 10})
    category = call(2, properties={"product_id": "p2", "category": ["Hats", "Sale"]})

    items = read_from(write_lines(tmp_path / "calls.json", newest, call(1), category)).items.set_index("item_id")

    assert items.loc["p1", ["title", "genres", "brand", "price"]].tolist() == ["Hat", "Clothes", "Acme", 10.0]
    assert items.loc["p2", "genres"].count("Hats") == 1


def test_a_property_of_the_wrong_type_is_quarantined_with_its_name(tmp_path, read_from):
    path = write_lines(tmp_path / "calls.json", call(1), call(2, properties={"product_id": {"id": "p1"}}))

    source = read_from(path)

    assert source.events["event_id"].tolist() == ["m1"]
    assert source.broken[["source_row", "reason"]].to_numpy().tolist() == [
        [2, "product_id is an object; expected one value"]
    ]


def test_a_table_of_a_segment_warehouse_reads_like_its_calls(tmp_path, read_from):
    path = tmp_path / "product_viewed.csv"
    path.write_text(
        "id,received_at,anonymous_id,user_id,event,event_text,original_timestamp,timestamp,product_id,sku,name\n"
        "m1,2024-01-31 22:15:02,a1,,product_viewed,Product Viewed,2024-01-31 22:15:01,2024-01-31 22:15:00,p1,s1,Hat\n"
        "m2,2024-01-31 22:16:02,a1,u1,product_viewed,Product Viewed,2024-01-31 22:16:01,,,s2,Cap\n"
        "m3,2024-01-31 22:17:02,a1,u1,signed_up,Signed Up,2024-01-31 22:17:01,,,,\n",
        encoding="utf-8",
    )

    source = read_from(path)

    assert source.name == "segment-warehouse"
    assert columns(source, "event_id", "user_id", "item_id", "event_time", "event_type") == [
        ("m1", "a1", "p1", "2024-01-31 22:15:00", "Product Viewed"),
        ("m2", "u1", "s2", "2024-01-31 22:16:01", "Product Viewed"),
    ]
    assert source.events.index.tolist() == [1, 2]
    assert source.found["events"]["without_item"] == {"Signed Up": 1}
    assert source.items["title"].tolist() == ["Hat", "Cap"]


# GA4


def test_ga4_reads_alike_from_json_lines_and_parquet(tmp_path, read_from):
    both = [{"item_id": "G1", "item_name": "Cap", "price": 9.5}, {"item_id": "G906", "item_name": "Hoodie 2"}]
    records = [
        ga4_event(0, user_id=None),
        ga4_event(1, event_name="purchase", user_id="u7", items=both),
        ga4_event(2, event_name="page_view", items=[]),
        ga4_event(3, event_name="select_item", items=[{"item_id": "(not set)"}]),
    ]
    numbers = [record | {"event_timestamp": int(record["event_timestamp"])} for record in records]
    pq.write_table(pa.Table.from_pylist(numbers), tmp_path / "events.parquet")

    for path in (write_lines(tmp_path / "events.json", *records), tmp_path / "events.parquet"):
        source = read_from(path, context=("device",))

        assert source.name == "ga4"
        assert columns(source, "user_id", "item_id", "event_time", "event_type", "device") == [
            ("1026454.4271112504", "G906", 1612069510766593, "view_item", "mobile"),
            ("u7", "G1", 1612069510766594, "purchase", "mobile"),
            ("u7", "G906", 1612069510766594, "purchase", "mobile"),
        ]
        assert source.found["events"]["without_item"] == {"page_view": 1, "select_item": 1}
        items = source.items.set_index("item_id")
        assert items["title"].to_dict() == {"G1": "Cap", "G906": "Hoodie 2"}
        assert items.loc["G906", "genres"] == "Men"
        assert items["brand"].isna().all()


def test_an_export_without_any_item_is_refused_with_its_events(tmp_path, read_from):
    path = write_lines(tmp_path / "calls.json", *[call(number, event="Signed Up", properties=[]) for number in (1, 2)])

    with pytest.raises(DataError, match=r"none of its events names an item; they are Signed Up \(2\)"):
        read_from(path)


def test_an_empty_parquet_export_is_refused(tmp_path, read_from):
    pq.write_table(pa.Table.from_pylist([ga4_event(1)]).slice(0, 0), tmp_path / "events.parquet")

    with pytest.raises(DataError, match="holds no rows"):
        read_from(tmp_path / "events.parquet")


def test_the_files_of_a_folder_are_one_export_and_the_quarantine_names_the_file(tmp_path, read_from):
    folder = tmp_path / "analytics"
    folder.mkdir()
    days = {
        "20210130": [ga4_event(0), "{cut", ga4_event(1, items=[])],
        "20210131": [ga4_event(2, event_name="purchase"), "7"],
    }
    for day, records in days.items():
        plain = write_lines(tmp_path / "day.json", *records)
        (folder / f"events_{day}.json.gz").write_bytes(gzip.compress(plain.read_bytes()))

    source = read_from(folder)

    assert source.name == "ga4"
    assert source.events["event_type"].tolist() == ["view_item", "purchase"]
    assert source.events.index.is_unique
    assert source.found["events"]["without_item"] == {"view_item": 1}
    located = locate_rows(source.broken, source.found)
    assert located[["file", "source_row", "raw"]].to_numpy().tolist() == [
        [str(folder / "events_20210130.json.gz"), 2, "{cut"],
        [str(folder / "events_20210131.json.gz"), 2, "7"],
    ]


def test_a_column_of_another_type_is_refused_by_name(tmp_path, read_from):
    record = {"event_timestamp": 1612069510766593, "event_name": "view_item", "items": "[]"}
    pq.write_table(pa.Table.from_pylist([record]), tmp_path / "events.parquet")

    with pytest.raises(
        DataError, match=r"events.parquet cannot be read as ga4: column items is string; expected an array"
    ):
        read_from(tmp_path / "events.parquet", source="ga4")


# Tables


REES46 = """event_time,event_type,product_id,category_id,category_code,brand,price,user_id,user_session
2019-10-01 00:00:00 UTC,view,44600062,2103807459595387724,electronics.smartphone,,40,541312140,72d76fde
2019-10-01 00:00:05 UTC,cart,44600062,2103807459595387724,,shiseido,35.79,554748717,9333dfbd
2019-10-01 00:00:06 UTC,view,3900821,2053013552326770905,,,33.2,554748717,
"""


def test_rees46_events_say_what_their_items_are(tmp_path, read_from):
    path = tmp_path / "2019-Oct.csv"
    path.write_text(REES46, encoding="utf-8")

    source = read_from(path)

    assert source.name == "rees46"
    assert columns(source, "user_id", "item_id", "event_time", "event_type", "session_id") == [
        ("541312140", "44600062", "2019-10-01 00:00:00 UTC", "view", "72d76fde"),
        ("554748717", "44600062", "2019-10-01 00:00:05 UTC", "cart", "9333dfbd"),
        ("554748717", "3900821", "2019-10-01 00:00:06 UTC", "view", None),
    ]
    items = source.items.set_index("item_id")
    assert items.loc["44600062", ["genres", "brand", "price"]].tolist() == ["electronics|smartphone", "shiseido", 35.79]
    assert items["price"].to_dict() == {"3900821": 33.2, "44600062": 35.79}


def test_a_configured_items_table_wins_over_what_events_say(tmp_path, read_from):
    (tmp_path / "oct.csv").write_text(REES46, encoding="utf-8")
    (tmp_path / "catalog.csv").write_text("item_id,title\n44600062,Cream\n", encoding="utf-8")

    source = read_from(tmp_path / "oct.csv", items=str(tmp_path / "catalog.csv"))

    assert source.items.to_dict("list") == {"item_id": ["44600062"], "title": ["Cream"]}


@pytest.mark.parametrize(
    ("header", "row"),
    [
        ("timestamp,visitorid,event,itemid,transactionid", "1433221332117,257597,view,355908,"),  # RetailRocket
        ("reviewerID,asin,overall,unixReviewTime", "A2,B1,5,1392422400"),  # Amazon reviews, 5-core
        ("review_id,user_id,business_id,stars,date", "r1,u1,b1,4,2016-03-09 19:10:55"),  # Yelp
        ("t_dat,customer_id,article_id,price,sales_channel_id", "2018-09-20,c1,0663713001,0.05,2"),  # H&M
    ],
)
def test_tables_of_the_field_need_no_map(tmp_path, read_from, header, row):
    path = tmp_path / "table.csv"
    path.write_text(f"{header}\n{row}\n", encoding="utf-8")

    source = read_from(path)

    assert source.name == "table"
    assert source.events[["user_id", "item_id", "event_time"]].notna().all(axis=None)


@pytest.mark.parametrize(
    "record",
    [
        {"reviewerID": "A2", "asin": "B1", "helpful": [0, 0], "overall": 5.0, "unixReviewTime": 1392422400},
        {"review_id": "r1", "user_id": "u1", "business_id": "b1", "stars": 4.0, "date": "2016-03-09 19:10:55"},
    ],
)
def test_reviews_in_json_lines_need_no_map(tmp_path, read_from, record):
    events = read_from(write_lines(tmp_path / "reviews.json", record, record)).events

    assert events[["user_id", "item_id", "event_time", "value"]].notna().all(axis=None)


# Detection


@pytest.mark.parametrize(
    "first",
    [
        {"session": "s1", "events": 12, "user_id": "u", "item_id": "i", "timestamp": 1},
        {"messageId": "m1", "type": "text", "timestamp": 1, "userId": "u1"},  # a chat
        {"event_timestamp": 1, "event_name": "view_item", "user_pseudo_id": "u", "item_id": "i"},  # after UNNEST(items)
        {"user_id": "u", "item_id": "i", "timestamp": 1},
        ["session", "events"],
    ],
)
def test_a_foreign_log_is_not_taken_for_an_export(tmp_path, first):
    assert detect_export(write_lines(tmp_path / "log.json", first)) is None


def test_a_foreign_table_is_not_taken_for_an_export(tmp_path):
    path = tmp_path / "log.parquet"
    pd.DataFrame({"session": ["s"], "events": [3]}).to_parquet(path)
    assert detect_export(path) is None
    path = tmp_path / "log.csv"
    path.write_text("event_time,event_type,product_id,user_id\n2019-10-01,view,1,2\n", encoding="utf-8")

    assert detect_format(path) == "table"


def test_a_map_of_columns_reads_a_known_table_as_a_plain_one(tmp_path, read_from):
    path = tmp_path / "oct.csv"
    path.write_text(REES46, encoding="utf-8")

    source = read_from(path, columns={"item_id": "category_id"})

    assert source.name == "table"
    assert source.events["item_id"].tolist()[0] == "2103807459595387724"


def test_every_export_can_be_named_in_the_settings(ingest_settings):
    for name in EXPORTS:
        assert ingest_settings(source=name).source == name


# The commands of the documentation

ATOMIC = "user_id:token\titem_id:token\trating:float\ttimestamp:float\n1\t2\t5\t1700000000\n"
FILES_OF_COMMANDS = {
    "ml-100k": {"ml-100k/u.data": "196\t242\t3\t881250949\n"},
    "ml-1m": {"ml-1m/ratings.dat": "1::1193::5::978300760\n"},
    "ml-32m": {"ml-32m/ratings.csv": "userId,movieId,rating,timestamp\n1,17,4.0,944249077\n"},
    "ml-100k.inter": {"ml-100k.inter": ATOMIC},
    "2019-Oct.csv": {"2019-Oct.csv": REES46},
    "retailrocket/events.csv": {
        "retailrocket/events.csv": "timestamp,visitorid,event,itemid,transactionid\n1433221332117,257597,view,355908,\n",
        "retailrocket/category_tree.csv": "categoryid,parentid\n1016,213\n",
    },
    "segment-calls.json": {"segment-calls.json": json.dumps(call(1))},
    "product_viewed.csv": {
        "product_viewed.csv": "id,received_at,anonymous_id,event,timestamp,product_id\n"
        "m1,2024-01-31 22:15:02,a1,product_viewed,2024-01-31 22:15:00,p1\n"
    },
    "ga4-events.json": {"ga4-events.json": json.dumps(ga4_event(1))},
    "otto-train.jsonl": {"otto-train.jsonl": json.dumps(OTTO[0])},
    "MINDsmall_train": {
        "MINDsmall_train/behaviors.tsv": "1\tU13740\t11/11/2019 9:05:58 AM\tN55189\tN55689-1 N35729-0\n",
        "MINDsmall_train/news.tsv": "N55689\tsports\tnfl\tTitle\tText\thttps://example.org\t[]\t[]\n",
        "MINDsmall_train/entity_embedding.vec": "Q1\t0.1\n",
    },
    "All_Beauty.csv COLUMNS=item_id=parent_asin": {
        "All_Beauty.csv": "rating,asin,parent_asin,user_id,timestamp\n5.0,B1,B0,AF,1588615855070\n"
    },
    "reviews.json": {
        "reviews.json": '{"reviewerID": "A2", "asin": "B1", "overall": 5.0, "unixReviewTime": 1392422400}\n'
    },
    "transactions_train.csv": {
        "transactions_train.csv": "t_dat,customer_id,article_id,price,sales_channel_id\n2018-09-20,c1,0663713001,0.05,2\n"
    },
    "big_matrix.csv COLUMNS=event_time=timestamp,value=watch_ratio": {
        "big_matrix.csv": "user_id,video_id,play_duration,video_duration,time,date,timestamp,watch_ratio\n"
        "0,3649,13838,10867,2020-07-05 00:08:23.438,20200705,1593878903.438,1.27\n"
    },
    "events.csv": {"events.csv": "user_id,item_id,event_time\n1,2,2024-01-31\n"},
}


def documented_commands() -> list[str]:
    """The sources in the table of formats of docs/data.md."""
    text = (Path(__file__).resolve().parents[3] / "docs" / "data.md").read_text(encoding="utf-8")
    return re.findall(r"^\|[^|]+\| `([^`]+)`", text.partition("\n## Formats\n")[2].partition("\n## ")[0], re.MULTILINE)


def test_every_documented_format_has_its_files_here() -> None:
    assert documented_commands() == ["make demo SOURCE=", *FILES_OF_COMMANDS]


@pytest.mark.parametrize("source", FILES_OF_COMMANDS)
def test_the_command_of_a_format_reads_its_files(tmp_path, params_file, capsys, source):
    for name, text in FILES_OF_COMMANDS[source].items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")

    path, _, columns = source.partition(" COLUMNS=")
    settings = params_file(path=str(tmp_path / path), columns=parse_columns(columns))

    assert ingest.main(["--params", str(settings), "--out", str(tmp_path / "out")]) == 0

    events = pd.read_parquet(tmp_path / "out" / "events.parquet")
    assert len(events) >= 1
    assert pd.read_parquet(tmp_path / "out" / "quarantine.parquet").empty
