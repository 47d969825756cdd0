"""Packed files are known by their content, and a damaged one is named."""

from __future__ import annotations

import bz2
import gzip
import lzma
import zipfile
from pathlib import Path

import pytest
from table_files import zstd_compress

from data.files import DataError
from data.readers import packed
from data.readers.packed import Part, list_parts

CONTENT = b"user_id,item_id,event_time\n" + b"u,i,2024-01-01\n" * 50


PACKED = {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress, "zst": zstd_compress}


def write_zip(path: Path, **members: bytes) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


@pytest.mark.parametrize("suffix", PACKED)
def test_packed_files_read_like_plain_ones(tmp_path, suffix):
    path = tmp_path / f"log.csv.{suffix.upper()}"
    path.write_bytes(PACKED[suffix](CONTENT))

    part = Part(path)

    assert part.read() == CONTENT
    assert part.read(10) == CONTENT[:10]
    assert part.compression == packed.PACKED_SUFFIXES[f".{suffix}"]


@pytest.mark.parametrize("suffix", PACKED)
def test_a_truncated_file_is_named(tmp_path, suffix):
    path = tmp_path / f"log.csv.{suffix}"
    path.write_bytes(PACKED[suffix](CONTENT)[:-5])

    with pytest.raises(DataError, match=rf"log\.csv\.{suffix} is not a readable \w+ archive"):
        Part(path).read()


def test_a_wrong_suffix_is_named(tmp_path):
    (tmp_path / "log.csv").write_bytes(gzip.compress(CONTENT))
    (tmp_path / "log.gz").write_bytes(CONTENT)

    assert Part(tmp_path / "log.csv").read() == Part(tmp_path / "log.gz").read() == CONTENT
    assert Part(tmp_path / "log.csv").compression == "gzip, by its content: not .csv"
    assert Part(tmp_path / "log.gz").compression == "none, by its content: not .gz"


def test_members_of_a_zip_archive_are_parts_in_order_of_their_names(tmp_path):
    path = write_zip(tmp_path / "a.zip", **{"b.csv": b"2", "a.csv": b"1", "__MACOSX/._a.csv": b"x", ".hidden": b"x"})

    parts = list_parts(path)

    assert [(part.member, part.read()) for part in parts] == [("a.csv", b"1"), ("b.csv", b"2")]
    assert str(parts[0]) == f"{path}/a.csv"


def test_an_excel_workbook_is_named(tmp_path):
    path = write_zip(tmp_path / "a.xlsx", **{"[Content_Types].xml": b"x", "xl/workbook.xml": b"x"})

    with pytest.raises(DataError, match="is an Excel workbook; save its sheet as CSV in UTF-8"):
        list_parts(path)


def test_a_folder_holds_its_visible_files_with_the_keys_of_hive(tmp_path):
    for name in (
        "dt=2024-01-02/part-1.csv",
        "dt=2024-01-01/hour=a%20b/part-0.csv",
        "dt=__HIVE_DEFAULT_PARTITION__/part-0.csv",
        "_temporary/part-0.csv",
        ".part-0.csv.crc",
        "_SUCCESS",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")

    assert [(str(part.path.relative_to(tmp_path)), part.keys) for part in list_parts(tmp_path)] == [
        ("dt=2024-01-01/hour=a%20b/part-0.csv", {"dt": "2024-01-01", "hour": "a b"}),
        ("dt=2024-01-02/part-1.csv", {"dt": "2024-01-02"}),
        ("dt=__HIVE_DEFAULT_PARTITION__/part-0.csv", {"dt": None}),
    ]


def test_a_file_that_unpacks_to_very_much_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(packed, "MIN_BOMB", 1 << 20)
    (tmp_path / "bomb.csv.gz").write_bytes(gzip.compress(b"0" * (1 << 23)))

    with pytest.raises(DataError, match="unpacks to more than 200 times its size"):
        Part(tmp_path / "bomb.csv.gz").read()
