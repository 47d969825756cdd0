"""Find the files of a table, and read their bytes, unpacked.

Hidden files (`.crc`, macOS's `._x`) and names that begin with `_` (`_SUCCESS`) are no tables.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any
from urllib.parse import unquote

import pyarrow as pa

from data.files import DataError

HEAD = 4096  # bytes that are enough to know a format
MAX_RATIO, MIN_BOMB = 200, 1 << 30  # a file that unpacks to more than both times its size and these bytes is refused
PACKED_SUFFIXES = {".gz": "gzip", ".bz2": "bzip2", ".xz": "xz", ".zst": "zstd", ".zip": "zip"}

_CHUNK = 1 << 22
_MAGIC = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ\0": "xz", b"\x28\xb5\x2f\xfd": "zstd", b"PK\3\4": "zip"}
_ERRORS = (OSError, EOFError, zlib.error, lzma.LZMAError, zipfile.BadZipFile, RuntimeError, pa.ArrowException)
_NO_VALUE = "__HIVE_DEFAULT_PARTITION__"


@dataclass(frozen=True)
class Part:
    """One file of a table, or one member of a zip archive."""

    path: Path
    member: str | None = None
    keys: Mapping[str, str | None] = field(default_factory=dict)  # columns of Hive's folders, e.g. dt=2024-01-01

    def __str__(self) -> str:
        return f"{self.path}/{self.member}" if self.member else str(self.path)

    @property
    def packing(self) -> str | None:
        """Compression by content, which wins over the suffix; None for none."""
        with self.path.open("rb") as file:
            head = file.read(6)
        return next((kind for magic, kind in _MAGIC.items() if head.startswith(magic)), None)

    @property
    def compression(self) -> str | None:
        """The packing as a report names it, also if the suffix is of another one."""
        packing, by_suffix = self.packing, PACKED_SUFFIXES.get(self.path.suffix.lower())
        return packing if packing == by_suffix else f"{packing or 'none'}, by its content: not {self.path.suffix}"

    def describe(self, kind: str, num_rows: int, **others: Any) -> dict[str, Any]:
        """What `RawTable.found` holds for this file: its name, format, compression and rows, and `others`."""
        facts = {"files": [str(self)], "format": kind, "compression": self.compression}
        return {**facts, **others, "rows": num_rows, "rows_per_file": [num_rows]}

    def read(self, size: int = -1) -> bytes:
        """The content, unpacked, or at most its first `size` bytes. Raises DataError if it cannot be read."""
        packing = None
        try:
            packing = self.packing
            with self.path.open("rb") as file, self._unpacked(file) as stream:
                if size >= 0:
                    return stream.read(size)
                limit = max(MIN_BOMB, MAX_RATIO * self.path.stat().st_size)
                chunks, total = [], 0
                while chunk := stream.read(_CHUNK):
                    chunks.append(chunk)
                    total += len(chunk)
                    if total > limit and packing:
                        raise DataError(f"{self} unpacks to more than {MAX_RATIO} times its size; unpack it yourself")
                return b"".join(chunks)
        except _ERRORS as error:
            packed = f"{packing} archive" if packing else "file"
            raise DataError(f"{self} is not a readable {packed}: {' '.join(str(error).split())}") from None

    def _unpacked(self, file: IO[bytes]) -> Any:
        match self.packing:
            case "gzip":
                return gzip.GzipFile(fileobj=file)
            case "bzip2":
                return bz2.BZ2File(file)
            case "xz":
                return lzma.LZMAFile(file)
            case "zstd":
                return pa.CompressedInputStream(pa.PythonFile(file, mode="r"), "zstd")
            case "zip":
                return zipfile.ZipFile(file).open(self.member or "")
        return file


def list_parts(path: Path) -> list[Part]:
    """The files at a path, in order of their names: itself, the members of a zip archive, or all files of a folder.

    Raises DataError if there is none.
    """
    if not path.exists():
        raise DataError(f"{path} does not exist")
    if path.is_file():
        return _members(Part(path))
    files = [file for file in sorted(path.rglob("*")) if file.is_file() and is_visible(file, path)]
    parts = []
    for file in files:
        folders = (path.name, *file.relative_to(path).parts[:-1])
        pairs = [name.split("=", 1) for name in folders if "=" in name]
        keys = {unquote(key): None if value == _NO_VALUE else unquote(value) for key, value in pairs}
        parts += _members(Part(file, keys=keys))
    if not parts:
        raise DataError(f"{path} holds no file")
    return parts


def is_visible(file: Path, folder: Path) -> bool:
    """Whether no name between a folder and a file begins with a dot or an underscore; Hive keys may."""
    names = file.relative_to(folder).parts
    return not any(name.startswith(".") or (name.startswith("_") and "=" not in name) for name in names)


def _members(part: Part) -> list[Part]:
    try:
        if part.packing != "zip":
            return [part]
        with zipfile.ZipFile(part.path) as archive:
            names = sorted(name for name in archive.namelist() if not name.endswith("/"))
    except _ERRORS as error:
        raise DataError(f"{part.path} cannot be read: {' '.join(str(error).split())}") from None
    if "[Content_Types].xml" in names:
        raise DataError(f"{part.path} is an Excel workbook; save its sheet as CSV in UTF-8")
    visible = [name for name in names if is_visible(Path(name), Path()) and not name.startswith("__MACOSX/")]
    if not visible:
        raise DataError(f"{part.path} is a zip archive without a file")
    return [Part(part.path, name, part.keys) for name in visible]


def read_head(part: Part) -> bytes:
    """The first bytes of a file, unpacked. Raises DataError if it is empty or cannot be read."""
    head = part.read(HEAD)
    if not head:
        raise DataError(f"{part} is empty")
    return head
