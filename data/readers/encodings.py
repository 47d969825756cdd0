"""Decode text strictly: what is not valid in its encoding is marked, counted and named, and never read as other letters.

A mark is a NUL before the bytes as escapes, `\\0\\xff`, so that a row with one is found after it was taken apart.
"""

from __future__ import annotations

import codecs
import re

import charset_normalizer

from config.params import TableFormat
from data.files import DataError

MAX_BAD_ROWS = 0.01  # share of bad lines above which a file is read wrongly: by another encoding, or other quotes
ALLOWED = 1  # invalid lines of a file of any size
MARK = "\0"

_BYTE_ORDER_MARKS = {  # UTF-32 first: its mark begins with UTF-16's
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF8: "utf-8",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
_SAMPLE, _HEAD = 1 << 16, 4096  # bytes
_COMMON = (  # encodings that a hint names, the most frequent one first
    "cp1252", "cp1250", "cp1251", "koi8_r", "cp1253", "cp1254", "cp1255", "cp1256", "cp874",
    "gb18030", "big5", "cp932", "euc_jp", "euc_kr",
)  # fmt: skip
# Control characters other than white space, ^A and the separators that some exports use as delimiters
_BINARY = re.compile(r"[\x00\x02-\x08\x0e-\x1b]")
_MARKED = re.compile(r"\0((?:\\x[0-9a-f]{2})+)")


def decode(name: str, content: bytes, table_format: TableFormat) -> tuple[bytes, str]:
    """Decode a file: its text in UTF-8 without a byte-order mark, with invalid bytes marked, and its encoding.

    Raises a DataError if the first line, or more than a few lines, are not valid, or if the file is not text.
    """
    marked = next((name for mark, name in _BYTE_ORDER_MARKS.items() if content.startswith(mark)), None)
    configured = table_format.encoding
    if marked and configured and not codecs.lookup(configured).name.startswith(codecs.lookup(marked).name):
        raise DataError(
            f"{name} begins with the byte-order mark of {marked}; {table_format.key}.encoding is {configured}"
        )
    encoding = configured or marked or "utf-8"
    invalid = _InvalidBytes(content)
    codecs.register_error("tidegate-mark", invalid.mark)
    try:
        text = content.decode(encoding, "tidegate-mark").lstrip("\ufeff")
        decoded = text.encode()
    except _TooMany:
        decoded, text = b"", ""
    except ValueError as error:
        raise DataError(f"{name} is not text in {encoding}: {error}") from None
    first_line = re.split(r"[\r\n]", text.lstrip("\r\n"), maxsplit=1)[0]
    if _MARKED.search(first_line) and _BINARY.search(content[:_HEAD].decode("latin-1")):
        raise DataError(f"{name} is not text; readable formats: CSV, TSV, JSON, Parquet, MovieLens, RecBole")
    if invalid.rows > invalid.limit or _MARKED.search(first_line):
        raise DataError(
            f"{name} is not text in {encoding}: byte 0x{content[invalid.first]:02x} in line {invalid.first_line}"
            f"{_guesses(content, invalid.first, configured)}; set {table_format.key}.encoding"
        )
    if _BINARY.search(first_line):
        utf_16 = (
            f"; it looks like UTF-16 without a byte-order mark: set {table_format.key}.encoding to utf-16-le or -be"
        )
        hint = utf_16 if content[:64].count(0) * 3 > len(content[:64]) else ""
        raise DataError(f"{name} is not text: it holds control characters{hint}")
    return decoded, encoding


def line_start(content: bytes, at: int) -> int:
    """Where the line that holds a position begins."""
    return max(content.rfind(b"\n", 0, at), content.rfind(b"\r", 0, at)) + 1


def line_end(content: bytes, at: int) -> int:
    """Where the line that holds a position ends, before its line break."""
    return min((end for end in (content.find(b"\n", at), content.find(b"\r", at)) if end >= 0), default=len(content))


def describe_invalid(text: str, encoding: str) -> str:
    """Why a row that holds a mark cannot be used."""
    found = _MARKED.search(text)
    return f"holds the byte {found[1][1:5].replace('x', '0x')}, which is not {encoding}" if found else "holds a NUL"


def show(text: str) -> str:
    """A row as the quarantine shows it: invalid bytes and NULs as escapes."""
    return _MARKED.sub(r"\1", text).replace(MARK, r"\x00")


class _TooMany(Exception):
    """So many lines are invalid that the rest does not matter."""


class _InvalidBytes:
    """Marks invalid bytes while a file is decoded, and counts the lines that hold some."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.limit = max(ALLOWED, int(MAX_BAD_ROWS * max(content.count(b"\n"), content.count(b"\r"))))
        self.rows = self.first = self._line_end = 0

    def mark(self, error: UnicodeError) -> tuple[str, int]:
        assert isinstance(error, UnicodeDecodeError)
        if error.start >= self._line_end:
            self.rows += 1
            self.first = self.first or error.start
            self._line_end = line_end(self.content, error.start)
            if self.rows > self.limit:
                raise _TooMany
        return MARK + "".join(f"\\x{byte:02x}" for byte in error.object[error.start : error.end]), error.end

    @property
    def first_line(self) -> int:
        """The number of the first line with invalid bytes, from 1."""
        before = self.content[: self.first]
        return 1 + max(before.count(b"\n"), before.count(b"\r"))


def _guesses(content: bytes, at: int, configured: str | None) -> str:
    """Encodings that the bytes may be in, each with the line at a position as it reads then."""
    line = content[line_start(content, at) : line_end(content, at)][:200]
    likely = [guess.encoding for guess in charset_normalizer.from_bytes(content[:_SAMPLE], cp_isolation=list(_COMMON))]
    names = [name for name in dict.fromkeys([*likely[:3], _COMMON[0]]) if name != configured]
    readings = [f"{line.decode(name, 'replace')[:40]!r} as {name}" for name in names]
    return f"; it reads {', '.join(readings)}"
