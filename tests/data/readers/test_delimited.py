"""Headers of every kind are read or named, and lines that do not fit are kept with their number."""

from __future__ import annotations

import pytest
from table_files import FORMAT

from data.files import DataError
from data.readers.delimited import read_delimited


def read(content: str, **changes: object):
    return read_delimited("log.csv", content.encode(), "utf-8", FORMAT.model_copy(update=changes))


@pytest.mark.parametrize(
    "content",
    [
        "user,item,,,\nu,i,,,\n",
        "sep=;\nuser;item\nu;i\n",
        "# made by hand\n# on Monday\nuser,item\nu,i\n",
        "#user,item\nu,i\n",
        "\n\r\nuser\titem\r\nu\ti",
        "user|item\ru|i\r",
        "user||item\nu||i\n",
        "user\1item\nu\1i\n",
        "user item\nu i\n",
        '"user","item"\n"u","i"\n',
        ",user,item\n0,u,i\n",
    ],
)
def test_a_header_of_any_kind_is_found(content):
    frame, broken, _ = read(content)

    assert frame.to_dict("records") == [{"user": "u", "item": "i"}]
    assert broken == []


def test_a_delimiter_of_several_characters_can_be_set():
    frame, broken, found = read('a::b\n"x::y"::z\n1::2::3\n', delimiter="::")

    assert frame.to_numpy().tolist() == [["x::y", "z"]]
    assert [(row, raw) for row, raw, _ in broken] == [(2, "1::2::3")]
    assert found["delimiter"] == "::"


def test_a_first_line_of_data_is_named_with_what_to_do():
    with pytest.raises(DataError, match="its first line looks like data: add a line of column names"):
        read("0,0,9,1511544070\n1,0,9,1511544071\n")


def test_rows_with_a_nul_are_quarantined_with_an_escape():
    frame, broken, _ = read("a,b\n1,2\n3\0,4\n")

    assert frame.index.tolist() == [1]
    assert broken == [(2, r"3\x00,4", "line holds a NUL")]


def test_a_file_whose_lines_do_not_fit_its_header_is_refused():
    with pytest.raises(DataError, match="no line has the 2 fields of its header; the first line has 3 fields, not 2"):
        read("a,b\n1,2,3\n")
