"""Text is read in its encoding or not at all: never as other letters."""

from __future__ import annotations

import codecs

import pytest
from table_files import FORMAT

from data.files import DataError
from data.readers.encodings import decode, describe_invalid, show

TEXT = "user,item\nИван,é\n"


@pytest.mark.parametrize(
    ("mark", "encoding"),
    [
        (codecs.BOM_UTF8, "utf-8"),
        (codecs.BOM_UTF8 * 2, "utf-8"),
        (codecs.BOM_UTF16_LE, "utf-16-le"),
        (codecs.BOM_UTF16_BE, "utf-16-be"),
        (codecs.BOM_UTF32_LE, "utf-32-le"),
    ],
)
def test_the_byte_order_mark_names_the_encoding(mark, encoding):
    assert decode("log.csv", mark + TEXT.encode(encoding), FORMAT)[0].decode() == TEXT


@pytest.mark.parametrize("encoding", ["cp1251", "koi8-r", "utf-16-be"])
def test_a_configured_encoding_is_used(encoding):
    text = "user,item\nИван,x\n"
    content, used = decode("log.csv", text.encode(encoding), FORMAT.model_copy(update={"encoding": encoding}))

    assert (content.decode(), used) == (text, encoding)


def test_an_invalid_byte_marks_its_cell_only():
    content, _ = decode("log.csv", b"user,item\nIv\xe9n,x\n" + "Иван,x\n".encode() * 9, FORMAT)
    line = content.decode().split("\n")[1]

    assert content.decode().split("\n")[2] == "Иван,x"
    assert describe_invalid(line, "utf-8") == "holds the byte 0xe9, which is not utf-8"
    assert show(line) == r"Iv\xe9n,x"


def test_a_file_in_another_encoding_is_refused_with_the_first_line_a_guess_and_the_setting():
    with pytest.raises(DataError) as error:
        decode("log.csv", ("user,item\n" + "Анна Каренина,Война и мир\n" * 9).encode("cp1251"), FORMAT)

    assert "is not text in utf-8: byte 0xc0 in line 2; it reads " in str(error.value)
    assert "'Анна Каренина,Война и мир' as cp1251" in str(error.value)
    assert str(error.value).endswith("; set ingest.formats.events.encoding")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"us\xe9r,item\n" + b"a,b\n" * 999, "byte 0xe9 in line 1"),
        ("user,item\n".encode("utf-16-le"), "set ingest.formats.events.encoding to utf-16-le or -be"),
        (b"\x89PNG\r\n\x1a\n\0\0", "is not text; readable formats"),
    ],
)
def test_a_header_that_is_not_text_is_refused(content, message):
    with pytest.raises(DataError, match=message):
        decode("log.csv", content, FORMAT)


def test_a_mark_that_contradicts_the_setting_is_refused():
    with pytest.raises(DataError, match=r"begins with the byte-order mark of utf-8; .*encoding is cp1251"):
        decode("log.csv", codecs.BOM_UTF8 + b"a,b\n", FORMAT.model_copy(update={"encoding": "cp1251"}))


def test_the_hint_of_a_western_file_names_its_encoding():
    content = "user_id,title\n" + "".join(f"u{row},Käse und Brötchen\n" for row in range(20))
    with pytest.raises(DataError, match=r"it reads .*'u0,Käse und Brötchen' as cp1252.*; set ingest\.formats\.events"):
        decode("log.csv", content.encode("cp1252"), FORMAT)
