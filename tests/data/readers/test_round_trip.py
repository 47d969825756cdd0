"""Any table reads back as it was written, and a damaged byte never turns into other ids or times.

A byte that becomes another letter of a valid text cannot be noticed without a checksum. The damage here is what can be:
in JSON lines a byte that becomes invalid; in text whose cells are all quoted, also one that becomes a quote; in gz, bz2,
xz and zip, and in the pages of a Parquet file with checksums, any byte.
"""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import lzma
import zipfile
from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from table_files import PLAIN, zstd_compress

from config.params import EventsFormat
from data.files import DataError
from data.readers.reading import read_named_columns
from data.readers.table import to_text

NAMES = ["user_id", "item_id", "event_time"]


def zip_compress(content: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("log", content)
    return file.getvalue()


CHECKED = {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress, ".zip": zip_compress}
PACKINGS = {"": bytes, ".zst": zstd_compress, **CHECKED}
WRITERS = [
    ("csv", "utf-8"),
    ("tsv", "utf-8"),
    ("csv", "utf-16"),
    ("csv", "utf-8-sig"),
    ("jsonl", "utf-8"),
    ("parquet", ""),
]

# Without NUL, which is no text of an id, and without the white space that CSV readers may trim from a row of one cell.
ids = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=6)
times = st.datetimes(pd.Timestamp("1980-01-01"), pd.Timestamp("2090-01-01")).map(lambda time: f"{time.isoformat()}Z")
tables = st.lists(st.tuples(ids, ids, times), min_size=1, max_size=8)


def write(kind: str, encoding: str, rows: list[tuple[str, str, str]]) -> bytes:
    """A table as a file; in delimited text every cell is quoted."""
    if kind == "parquet":
        file = io.BytesIO()
        pd.DataFrame(rows, columns=NAMES).to_parquet(file)
        return file.getvalue()
    text = io.StringIO(newline="")
    if kind == "jsonl":
        for row in rows:
            text.write(json.dumps(dict(zip(NAMES, row, strict=True)), ensure_ascii=False) + "\n")
    else:
        writer = csv.writer(text, delimiter="\t" if kind == "tsv" else ",", quoting=csv.QUOTE_ALL)
        writer.writerows([NAMES, *rows])
    return text.getvalue().encode(encoding)


def read(content: bytes, name: str, encoding: str | None = None) -> list[tuple[str, str, str]]:
    with TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(content)
        rows = read_named_columns(path, EventsFormat(**PLAIN | {"encoding": encoding})).rows
        return list(rows[NAMES].apply(to_text).itertuples(index=False, name=None))


@pytest.mark.parametrize("packing", PACKINGS)
@pytest.mark.parametrize(("kind", "encoding"), WRITERS)
@settings(max_examples=12, deadline=None)
@given(rows=tables)
def test_a_table_reads_back_as_it_was_written(kind, encoding, packing, rows):
    assert read(PACKINGS[packing](write(kind, encoding, rows)), f"log.{kind}{packing}") == rows


@pytest.mark.parametrize("encoding", ["cp1251", "latin-1", "gb18030", "utf-16-le", "utf-32"])
@settings(max_examples=12, deadline=None)
@given(data=st.data())
def test_a_table_in_a_configured_encoding_reads_back_as_it_was_written(encoding, data):
    letters = st.characters(codec=encoding, exclude_categories=["Cs"], exclude_characters="\0\ufeff")
    names = st.text(letters, min_size=1, max_size=6)
    rows = data.draw(st.lists(st.tuples(names, names, times), min_size=1, max_size=8))
    assert read(write("csv", encoding, rows), "log.csv", encoding) == rows


@settings(max_examples=60, deadline=None)
@given(rows=tables, data=st.data())
def test_an_invalid_byte_of_json_lines_changes_no_id_or_time(rows, data):
    content = write("jsonl", "utf-8", rows)
    at = data.draw(st.integers(0, len(content) - 1))
    try:
        found = read(content[:at] + b"\xff" + content[at + 1 :], "log.jsonl")
    except (DataError, KeyError):
        return
    assert set(found) <= set(rows)


@settings(max_examples=40, deadline=None)
@given(rows=tables, data=st.data())
def test_no_byte_of_a_parquet_page_with_checksums_changes_an_id_or_time(rows, data):
    file = io.BytesIO()
    table = pa.Table.from_pandas(pd.DataFrame(rows, columns=NAMES), preserve_index=False)
    pq.write_table(table, file, use_dictionary=False, compression="none", write_page_checksum=True)
    content = bytearray(file.getvalue())
    column = pq.read_metadata(file).row_group(0).column(data.draw(st.integers(0, 2)))
    at = column.data_page_offset + data.draw(st.integers(0, column.total_compressed_size - 1))
    content[at] ^= data.draw(st.integers(1, 255))
    try:
        found = read(bytes(content), "log.parquet")
    except (DataError, KeyError):
        return
    assert found == rows


@pytest.mark.parametrize("byte", [b"\xff", b'"'])
@settings(max_examples=60, deadline=None)
@given(rows=tables, data=st.data())
def test_a_byte_that_becomes_invalid_or_a_quote_changes_no_id_or_time(byte, rows, data):
    content = write("csv", "utf-8", rows)
    at = data.draw(st.integers(0, len(content) - 1))
    try:
        found = read(content[:at] + byte + content[at + 1 :], "log.csv")
    except (DataError, KeyError):  # KeyError: the name of a column is another one, which ingest names
        return
    assert set(found) <= set(rows)


@pytest.mark.parametrize("packing", CHECKED)
@settings(max_examples=25, deadline=None)
@given(rows=tables, data=st.data())
def test_no_byte_of_a_packed_file_changes_an_id_or_time(packing, rows, data):
    content = bytearray(PACKINGS[packing](write("csv", "utf-8", rows)))
    at = data.draw(st.integers(0, len(content) - 1))
    content[at] ^= data.draw(st.integers(1, 255))
    try:
        found = read(bytes(content), f"log.csv{packing}")
    except (DataError, KeyError):
        return
    assert found == rows
