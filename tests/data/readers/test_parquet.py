"""Ids of every Parquet type stay exact text, and what cannot be an id is named."""

from __future__ import annotations

import datetime
from decimal import Decimal
from uuid import UUID

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data.readers.packed import Part
from data.readers.parquet import read_parquet
from data.readers.table import to_text

LARGE = 2**53 + 1

EXACT = {
    "int64": (pa.array([LARGE, None]), str(LARGE)),
    "int8": (pa.array([7, None], pa.int8()), "7"),
    "uint64": (pa.array([2**64 - 1, None], pa.uint64()), str(2**64 - 1)),
    "decimal": (pa.array([Decimal(10**20 + 1), None]), str(10**20 + 1)),
    "decimal with a scale": (pa.array([Decimal("100.00"), None]), "100"),
    "float": (pa.array([100.0, None]), "100"),
    "bytes": (pa.array(["Иван".encode(), None]), "Иван"),
    "fixed-size bytes": (pa.array([b"ab\0\0", None], pa.binary(4)), "ab"),
    "uuid": (pa.array([UUID(int=5).bytes, None], pa.uuid()), str(UUID(int=5))),
    "dictionary": (pa.array([LARGE, None]).dictionary_encode(), str(LARGE)),
    "large string": (pa.array(["007", None], pa.large_string()), "007"),
    "string view": (pa.array(["007", None], pa.string_view()), "007"),
    "date": (pa.array([datetime.date(2024, 1, 31), None]), "2024-01-31"),
}


def read(tmp_path, **columns: pa.Array):
    pq.write_table(pa.table(columns), tmp_path / "log.parquet")
    return read_parquet(Part(tmp_path / "log.parquet"))


@pytest.mark.parametrize(("cells", "text"), EXACT.values(), ids=EXACT)
def test_an_id_of_any_type_is_exact_text(tmp_path, cells, text):
    frame, types = read(tmp_path, user_id=cells)

    assert to_text(frame["user_id"]).tolist() == [text, None]
    assert types == {}


def test_nested_columns_and_bytes_that_are_no_text_are_named_by_their_type(tmp_path):
    frame, types = read(tmp_path, a=pa.array([["x", "y"]]), b=pa.array([b"\xff\xfe"]), c=pa.array([1]))

    assert types == {"a": "list<element: string>", "b": "binary"}
    assert frame.iloc[0].tolist() == ['["x", "y"]', "fffe", 1]


def test_index_levels_are_columns_and_row_numbers_are_none(tmp_path):
    frame = pd.DataFrame({"user": ["u", "v"], "item": ["i", "j"], "time": [1, 2]})
    frame.set_index(["user", "time"]).to_parquet(tmp_path / "levels.parquet")
    frame[frame["user"] == "v"].to_parquet(tmp_path / "numbers.parquet")

    assert set(read_parquet(Part(tmp_path / "levels.parquet"))[0]) == {"user", "item", "time"}
    assert list(read_parquet(Part(tmp_path / "numbers.parquet"))[0]) == ["user", "item", "time"]
