"""Nested records lose no line, no digit and no field, whether a block is parsed by Arrow or line by line."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from table_files import FORMAT

from config import params
from data.files import DataError
from data.readers import nested
from data.readers.encodings import decode
from data.readers.nested import add_nested_columns, read_json_shape, unnest, values_at
from data.readers.sources import read_source

ROOT = Path(__file__).resolve().parents[3]

SHAPE = {"id": int, "note": object, "parts": [{"sku": str, "price": float}]}

texts = st.none() | st.text('a7é😀"\\\n\t\0 {[', max_size=3)
parts = st.fixed_dictionaries(
    {"sku": texts, "price": st.none() | st.integers(-(10**30), 10**30)}, optional={"other": texts}
)
whole_records = st.fixed_dictionaries(
    {}, optional={"id": st.none() | st.integers(), "note": texts, "parts": st.none() | st.lists(parts, max_size=3)}
)  # fmt: skip


def read(content: bytes) -> tuple[list[dict], list[tuple[int, str, str]]]:
    rows: list[dict] = []
    broken: list[tuple[int, str, str]] = []
    for table in read_json_shape("log.json", *decode("log.json", content, FORMAT), SHAPE, broken):
        rows += table.to_pylist()
    return rows, broken


def expected(record: dict, line: int) -> dict:
    def text(value: object) -> str | None:
        return None if value is None else str(value)

    inner = record.get("parts")
    listed = inner and [{"sku": part["sku"], "price": text(part["price"])} for part in inner]
    return {"id": text(record.get("id")), "note": record.get("note"), "parts": listed, "record": line}


@settings(deadline=None)
@given(st.lists(whole_records, max_size=6), st.sampled_from([40, 1 << 24]))
def test_what_is_written_is_read(written, block_bytes):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nested, "BLOCK_BYTES", block_bytes)
        content = "".join(f"{json.dumps(record, ensure_ascii=False)}\n" for record in written).encode()
        rows, broken = read(content)
        in_an_array, _ = read(json.dumps(written).encode())

    assert broken == []
    lines = enumerate(written, 1)
    assert [without_floats(row) for row in rows] == [without_floats(expected(record, line)) for line, record in lines]
    assert in_an_array == [expected(record, line) for line, record in enumerate(written, 1)]


def without_floats(row: dict) -> dict:
    """Arrow reads prices as floats: 10**30 comes back as 1e+30."""
    listed = row["parts"] and [
        {"sku": part["sku"], "price": part["price"] and float(part["price"])} for part in row["parts"]
    ]
    return row | {"parts": listed}


@settings(deadline=None)
@given(st.lists(whole_records, min_size=1, max_size=3), st.data())
def test_a_flipped_byte_changes_its_own_line_only(written, data):
    lines = [json.dumps(record).encode() for record in written]
    hit = data.draw(st.integers(0, len(lines) - 1))
    at = data.draw(st.integers(0, len(lines[hit]) - 1))
    value = data.draw(st.integers(0, 255).filter(lambda byte: byte != ord("\n")))
    lines[hit] = lines[hit][:at] + bytes([value]) + lines[hit][at + 1 :]
    if lines[0].lstrip()[:1] == b"[":
        return  # not JSON lines any more

    try:
        rows, broken = read(b"\n".join(lines))
    except DataError:
        return  # an invalid byte in the first line: the file is not text in UTF-8

    others = [without_floats(row) for row in rows if row["record"] != hit + 1]
    assert others == [without_floats(expected(record, n)) for n, record in enumerate(written, 1) if n != hit + 1]
    assert {number for number, _, _ in broken} <= {hit + 1}


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"id": {"a": 1}}', "id is an object; expected one value"),
        (b'{"id": [1]}', "id is an array; expected one value"),
        (b'{"parts": {"sku": "a"}}', "parts is an object; expected an array"),
        (b'{"parts": ["a"]}', "parts is one value; expected an object"),
        (b"[]", "is not a JSON object"),
        (b'"text"', "is not a JSON object"),
        (b'{"id": 1} {"id": 2}', "is not JSON: Extra data: line 1 column 11 (char 10)"),
        (b'{"id": "\xff"}', "holds the byte 0xff, which is not utf-8"),
        (b'{"id": 007}', "is not JSON: Expecting ',' delimiter: line 1 column 9 (char 8)"),
    ],
)
def test_a_line_of_another_form_is_named(line, reason):
    rows, broken = read(b'{"id": 1}\n' + line + b'\n{"id": 2}\n')

    assert [row["id"] for row in rows] == ["1", "2"]
    assert [(number, why) for number, _, why in broken] == [(2, reason)]


def test_digits_and_nested_notes_stay_as_they_are_written():
    rows, _ = read(b'{"id": 9007199254740993, "note": {"a": [1, 2.5]}}\n{"id": "007", "note": true}\n')

    assert [(row["id"], row["note"]) for row in rows] == [("9007199254740993", '{"a": [1, 2.5]}'), ("007", "true")]


def test_an_array_that_does_not_end_is_an_error():
    with pytest.raises(DataError, match=r"log\.json is not a readable JSON array: Expecting"):
        read(b'[{"id": 1},\n{"id": 2}\n')


def test_unnest_keeps_empty_lists_as_one_null():
    lists = pa.array([[1, 2], [], None, [3]], pa.list_(pa.int64()))

    elements, parents, positions = unnest(lists)

    assert elements.to_pylist() == [1, 2, None, None, 3]
    assert parents.tolist() == [0, 0, 1, 2, 3]
    assert positions.tolist() == [0, 1, 0, 0, 0]


def test_a_nested_field_of_a_null_object_is_null():
    table = pa.table({"a": pa.array([{"b": {"c": 1}}, None, {"b": None}])})

    assert values_at(table, "a.b.c").to_pylist() == [1, None, None]


def test_a_path_leads_into_a_column_of_json_text():
    cells = [
        '{"id": 9007199254740993, "plan": {"name": "free"}}',
        None,
        "",
        "no JSON",
        '{"id": "u\\n2"}',
        '{\n"id": 3}',
        "[1]",
    ]
    rows = pd.DataFrame({"user": cells, "when": range(7)})

    nested = add_nested_columns(rows, ["user.id", "user.plan.name", "when", "other.id"])

    assert list(nested.columns) == ["user", "when", "user.id", "user.plan.name"]
    nested = nested.astype(object).where(nested.notna(), None)
    assert nested["user.id"].tolist() == ["9007199254740993", None, None, None, "u\n2", "3", None]
    assert nested["user.plan.name"].tolist() == ["free", *[None] * 6]


def test_a_column_whose_name_holds_a_dot_stays_as_it_is():
    rows = pd.DataFrame({"user": ['{"id": 1}'], "user.id": ["7"]})

    assert add_nested_columns(rows, ["user.id"]) is rows


@pytest.mark.parametrize("suffix", ["json", "parquet", "csv"])
def test_nested_fields_can_be_mapped(tmp_path, ingest_settings, suffix):
    users = [{"id": 2**53 + 1, "plan": "free"}, {"id": 5, "plan": None}, None]
    rows = [{"user": user, "properties": {"sku": f"a{n}"}, "ts": 1700000000 + n} for n, user in enumerate(users)]
    path = tmp_path / f"log.{suffix}"
    if suffix == "json":
        path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    elif suffix == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        cells = [{key: cell if key == "ts" else json.dumps(cell) for key, cell in row.items()} for row in rows]
        pd.DataFrame(cells).to_csv(path, index=False)
    settings = ingest_settings(path=str(path), columns={"user_id": "user.id", "item_id": "properties.sku"})

    events = read_source(settings, params.load(ROOT / "params.yaml").simulate, 0).events

    assert events["item_id"].tolist() == ["a0", "a1", "a2"]
    assert events["user_id"].tolist()[:2] == ["9007199254740993", "5"]
    assert events["user_id"].isna().tolist() == [False, False, True]


def test_a_path_that_leads_nowhere_is_refused(tmp_path, ingest_settings):
    path = tmp_path / "log.csv"
    path.write_text('user,item_id,ts\n"{""id"": 5}",a,1700000000\n', encoding="utf-8")

    with pytest.raises(DataError, match=r"ingest\.columns\.user_id is 'person\.id'; the file holds 'user'"):
        read_source(
            ingest_settings(path=str(path), columns={"user_id": "person.id"}),
            params.load(ROOT / "params.yaml").simulate,
            0,
        )
