"""Any table reads back as it was written, and a damaged byte never turns into other ids or times.

A byte that becomes another letter of a valid text cannot be noticed without a checksum. The damage here is what can be:
in text whose cells are all quoted, a byte that becomes invalid or a quote; in gz, bz2 and xz, any byte.
"""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import lzma
from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from config.params import EventsFormat
from data.files import DataError
from data.readers.reading import read_named_columns
from data.readers.table import to_text

PLAIN = {"encoding": None, "delimiter": None, "quote": '"', "na_values": [], "time_format": None, "timezone": "UTC"}
NAMES = ["user_id", "item_id", "event_time"]
PACKINGS = {"": bytes, ".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress}
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


def read(content: bytes, name: str) -> list[tuple[str, str, str]]:
    with TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(content)
        rows = read_named_columns(path, EventsFormat(**PLAIN)).rows
        return list(rows[NAMES].apply(to_text).itertuples(index=False, name=None))


@pytest.mark.parametrize("packing", PACKINGS)
@pytest.mark.parametrize(("kind", "encoding"), WRITERS)
@settings(max_examples=12, deadline=None)
@given(rows=tables)
def test_a_table_reads_back_as_it_was_written(kind, encoding, packing, rows):
    assert read(PACKINGS[packing](write(kind, encoding, rows)), f"log.{kind}{packing}") == rows


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


@pytest.mark.parametrize("packing", [".gz", ".bz2", ".xz"])
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
