"""JSON reads exactly: nested values stay, large integers too, and what is no object is named with its row."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest
from table_files import FORMAT

from data.files import DataError
from data.readers.encodings import decode
from data.readers.json_records import parse_objects, read_json_table
from data.readers.packed import Part, list_parts
from data.readers.reading import read_named_columns


def records_of(path: Path) -> tuple[list, list]:
    """The objects of a file and what is none, with their numbers."""
    (part,) = list_parts(path)
    found = list(enumerate(parse_objects(str(part), *decode(str(part), part.read(), FORMAT)), 1))
    records = [(number, record) for number, record in found if isinstance(record, dict)]
    return records, [(number, *record) for number, record in found if not isinstance(record, dict)]


def table_of(content: bytes):
    return read_json_table(Part(Path("log.json")), content, "utf-8")


def test_records_of_lines_and_arrays_keep_nested_values(tmp_path):
    lines, array = tmp_path / "a.jsonl", tmp_path / "a.json"
    lines.write_bytes(b'{"session": 9007199254740993, "events": [{"aid": 1}]}\n\n{"session": 2, "events": []}\n')
    array.write_bytes(b'[{"session": 9007199254740993, "events": [{"aid": 1}]},\n {"session": 2, "events": []}]')

    expected = [(1, {"session": 9007199254740993, "events": [{"aid": 1}]}), (2, {"session": 2, "events": []})]
    assert records_of(lines) == (expected, [])
    assert records_of(array) == (expected, [])


def test_records_of_a_folder_are_numbered_through_and_hidden_files_are_skipped(tmp_path):
    (tmp_path / "b.jsonl").write_bytes(b'{"n": 3}\n')
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(b'{"n": 1}\n{"n": \n'))
    (tmp_path / "._a.jsonl").write_bytes(b"\0\0")
    (tmp_path / "_SUCCESS").touch()

    table = read_named_columns(tmp_path, FORMAT)

    assert table.rows["n"].astype(int).to_dict() == {1: 1, 3: 3}
    assert table.broken[["source_row", "raw"]].to_numpy().tolist() == [[2, '{"n": ']]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"a": 1', "is not JSON"),
        (b"[1]", "is not a JSON object"),
        (b'{"a": 1, "a": 2}', "a key is there twice"),
        (b'{"a": "\xff"}', "holds the byte 0xff, which is not utf-8"),
    ],
)
def test_a_line_that_is_no_object_is_named(tmp_path, line, reason):
    path = tmp_path / "log.jsonl"
    path.write_bytes(b'{"a": 0}\n' + line + b"\n")

    records, broken = records_of(path)

    assert records == [(1, {"a": 0})]
    assert broken[0][0] == 2
    assert reason in broken[0][2]


def test_a_torn_array_is_refused(tmp_path):
    path = tmp_path / "log.json"
    path.write_bytes(b'[{"a": 0}, {"a"')

    with pytest.raises(DataError, match=r"log\.json is not a readable JSON array"):
        records_of(path)


def test_a_table_keeps_large_integers_and_text_that_looks_like_a_time():
    frame, _ = table_of(
        b'{"u": 9007199254740993, "i": "2024-01-01 00:00:00", "v": 0.5}\n'
        b'{"u": null, "i": "2024-01-02 00:00:00", "v": 2}\n'
    )

    assert frame["u"].tolist() == [9007199254740993, None]
    assert frame["i"].tolist() == ["2024-01-01 00:00:00", "2024-01-02 00:00:00"]
    assert frame["v"].tolist() == [0.5, 2.0]


@pytest.mark.parametrize(
    "line",
    [b'{"u": 1.5}', b'{"u": "x"}', b'{"u": 99999999999999999999}', b'{"u": [1, {"k": null}]}', b'{"other": true}'],
)
def test_an_integer_stays_exact_whatever_else_its_column_holds(line):
    frame, broken = table_of(b'{"u": 9007199254740993}\n' + line)

    assert frame["u"].tolist()[0] == 9007199254740993
    assert frame.index.tolist() == [1, 2]
    assert broken == []


def test_nested_values_of_a_table_are_json_text():
    frame, _ = table_of(b'{"u": 1, "genres": ["Drama", "Sci-Fi"]}\n{"u": 2}\n')

    assert frame["genres"].tolist() == ['["Drama", "Sci-Fi"]', None]


@pytest.mark.parametrize("content", [b'{"a": "x\\ud83d"}\n{"a": "y"}\n', b'[{"a": "x\\ud83d"}, {"a": "y"}]'])
def test_half_of_a_surrogate_pair_is_named_and_a_whole_one_is_a_letter(tmp_path, content):
    path = tmp_path / "log.json"
    path.write_bytes(content.replace(b'"y"', b'"\\ud83d\\ude00"'))
    records, broken = records_of(path)
    assert records == [(2, {"a": "\U0001f600"})]
    assert [one[-1] for one in broken] == ["holds half of a surrogate pair"]
