"""Parts of one schema are one table, whose rows keep their file."""

from __future__ import annotations

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from table_files import FORMAT

from data.files import DataError
from data.readers.combine import locate_rows
from data.readers.reading import read_named_columns
from data.readers.table import to_text

LARGE = 2**53 + 1


def test_parts_are_read_in_order_and_an_empty_one_is_fine(tmp_path):
    (tmp_path / "b.csv").write_text("user,item\nw,k\ntorn\n", encoding="utf-8")
    (tmp_path / "a.csv").write_text("item,user\ni,u\nj,v\n", encoding="utf-8")
    (tmp_path / "c.csv").write_text("", encoding="utf-8")
    (tmp_path / "d.csv").write_text("user,item\n", encoding="utf-8")

    table = read_named_columns(tmp_path, FORMAT)

    assert table.rows["user"].to_dict() == {1: "u", 2: "v", 3: "w"}
    assert table.broken["source_row"].tolist() == [4]
    assert table.found["rows_per_file"] == [2, 2, 0]
    located = locate_rows(table.broken.assign(table="events"), {"events": table.found})
    assert located[["file", "source_row"]].to_numpy().tolist() == [[str(tmp_path / "b.csv"), 2]]


def test_hive_partitions_become_columns(tmp_path):
    for day in ("2024-01-01", "2024-01-02"):
        (tmp_path / f"dt={day}").mkdir()
        (tmp_path / f"dt={day}" / "part-0.csv").write_text("user\nu\n", encoding="utf-8")

    assert read_named_columns(tmp_path, FORMAT).rows["dt"].tolist() == ["2024-01-01", "2024-01-02"]


@pytest.mark.parametrize(
    "other",
    [
        pa.array([7], pa.int32()),
        pa.nulls(1),
        pa.array([None], pa.int64()),
        pa.array([7.0]),
        pa.array(["x"]),
        pa.array([2**64 - 1], pa.uint64()),
    ],
    ids=str,
)
def test_parts_of_different_types_keep_exact_ids(tmp_path, other):
    pq.write_table(pa.table({"user": pa.array([LARGE])}), tmp_path / "part-0.parquet")
    pq.write_table(pa.table({"user": other}), tmp_path / "part-1.parquet")

    users = to_text(read_named_columns(tmp_path, FORMAT).rows["user"])

    assert users[1] == str(LARGE)
    assert (users[2] is None) == (other.null_count == 1)


def test_times_of_different_units_unify_in_utc(tmp_path):
    for number, unit in enumerate(("ms", "ns")):
        pq.write_table(pa.table({"t": pa.array([1_000_000_000], pa.timestamp(unit))}), tmp_path / f"{number}.parquet")

    assert read_named_columns(tmp_path, FORMAT).rows["t"].tolist() == [
        pd.Timestamp("1970-01-12T13:46:40Z"),
        pd.Timestamp("1970-01-01T00:00:01Z"),
    ]


def test_parts_with_other_columns_are_refused_by_name(tmp_path):
    (tmp_path / "a.csv").write_text("user,item\nu,i\n", encoding="utf-8")
    (tmp_path / "b.csv").write_text("item,title\ni,t\n", encoding="utf-8")

    with pytest.raises(
        DataError, match=r"several tables: .*a\.csv holds 'user', 'item'; .*b\.csv holds 'item', 'title'"
    ):
        read_named_columns(tmp_path, FORMAT)
