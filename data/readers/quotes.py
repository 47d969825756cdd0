"""Find quotes that are not closed, or stand alone, before they swallow rows.

A quoted cell begins right after a delimiter or a line break and ends right before one; a quote in it is doubled
(RFC 4180). A lone quote inside a cell is a letter (7" single). A line that breaks this is quarantined, and reading goes
on at the next line. A cell over several lines is a lost quote too if each line is a whole row with quotes as letters.
"""

from __future__ import annotations

import re

import numpy as np

from config.params import TableFormat
from data.files import DataError
from data.readers.encodings import MAX_BAD_ROWS, line_end, line_start

ALLOWED = 2  # broken lines of a file of any size
MANY_LINES = 8  # a cell of that many lines, all of them whole rows, is not text with line breaks

_BREAKS = np.frombuffer(b"\r\n", np.uint8)


def mark_broken_quotes(
    name: str, content: bytes, delimiter: str, quote: str | None, num_columns: int, table_format: TableFormat
) -> tuple[bytes, str | None, list[str]]:
    """The content with each broken line replaced by `\\0quote <position>`, the quote in use, and the broken lines.

    The quote is None if quotes are letters: none is configured or there, or letters make every line with one fit.
    Raises DataError if too many lines are broken.
    """
    if quote is None or quote.encode() not in content:
        return content, None, []
    scanner = _Scanner(content, delimiter.encode(), quote.encode(), num_columns)
    if scanner.is_sound():
        return content, quote, []
    if scanner.quotes_are_letters():
        return content, None, []
    pieces, broken = scanner.replace_broken_lines()
    limit = max(ALLOWED, int(MAX_BAD_ROWS * content.count(b"\n")))
    if len(broken) > limit:
        raise DataError(
            f"{name}: a quote is not closed, or stands alone, in {len(broken)} lines, the first of which reads "
            f"{broken[0][:80]!r}; if quotes are letters in this file, set {table_format.key}.quote to null"
        )
    return b"".join(pieces), quote, broken


class _Scanner:
    def __init__(self, content: bytes, delimiter: bytes, quote: bytes, num_columns: int) -> None:
        self.content, self.delimiter, self.quote, self.num_columns = content, delimiter, quote, num_columns
        d, q = re.escape(delimiter), re.escape(quote)
        quoted = b"%b[^%b]*+(?:%b%b[^%b]*+)*+%b" % (q, q, q, q, q, q)
        letters = b"[^%b%b\r\n](?:[^%b\r\n]*[^%b%b\r\n])?" % (q, d, d, q, d)
        cell = b"(?:%b|%b|)" % (quoted, letters)
        self.record = re.compile(b"%b(?:%b%b)*+(?=[\r\n]|\\Z)" % (cell, d, cell))
        self.no_quotes = re.compile(b"(?:[^%b\r\n]*+[\r\n]++)*+" % q)
        self.one_line_cell = re.compile(
            b"(?:^|(?<=[%b\r\n]))%b[^%b\r\n]*+(?:%b%b[^%b\r\n]*+)*+%b(?=[%b\r\n]|\\Z)" % (d, q, q, q, q, q, q, d)
        )
        self.line_with_quote = re.compile(b"[^\r\n]*%b[^\r\n]*" % q)
        header = re.split(rb"[\r\n]", content.lstrip(b"\r\n"), maxsplit=1)[0]
        self.body = content.find(header) + len(header)
        self.header_quoted = header.startswith(quote)
        self.min_lines = MANY_LINES if self.header_quoted else 2

    def is_sound(self) -> bool:
        """Whether every quote opens or closes a cell or is doubled, and no cell holds whole rows. Without a loop."""
        letters = np.frombuffer(self.content, np.uint8)
        at = np.flatnonzero(letters == ord(self.quote))
        if len(at) % 2:
            return False
        opening, closing = at[::2], at[1::2]
        edges = np.append(_BREAKS, ord(self.delimiter))
        doubled = closing[:-1] + 1 == opening[1:]
        opens = (opening == 0) | np.isin(letters[opening - 1], edges)
        closes = closing == len(letters) - 1
        closes[~closes] = np.isin(letters[closing[~closes] + 1], edges)
        opens[1:] |= doubled
        closes[:-1] |= doubled
        if not (opens.all() and closes.all()):
            return False
        breaks = np.flatnonzero(np.isin(letters, _BREAKS))
        spans = np.searchsorted(breaks, opening) != np.searchsorted(breaks, closing)
        cells = list(zip(opening[spans].tolist(), closing[spans].tolist(), strict=True))
        whole = [self._lines_of_whole_rows(start, end) for start, end in cells]
        # A cell whose lines are no rows shows that cells have line breaks here.
        self.min_lines = MANY_LINES if self.header_quoted or 0 in whole else 2
        return all(lines < self.min_lines for lines in whole)

    def quotes_are_letters(self) -> bool:
        """Whether no cell is quoted in the common way, and each line with a quote has the header's number of cells."""
        if self.header_quoted or self.one_line_cell.search(self.content, self.body):
            return False
        lines = self.line_with_quote.findall(self.content, self.body)
        return all(line.count(self.delimiter) == self.num_columns - 1 for line in lines)

    def replace_broken_lines(self) -> tuple[list[bytes], list[str]]:
        """The content in pieces with its broken lines replaced, and these lines."""
        content, pieces = self.content, []
        broken: list[str] = []
        start = position = self.body
        pieces.append(content[:start])
        while True:
            position = self.no_quotes.match(content, position).end()  # type: ignore[union-attr]
            record = self.record.match(content, position)
            if record and not 0 < self._lines_of_whole_rows(position, record.end()) >= self.min_lines:
                if record.end() == len(content):
                    break
                position = record.end()
                continue
            end = line_end(content, position)
            pieces += [content[start:position], b"\0quote %d" % len(broken)]
            broken.append(content[position:end].decode())
            start = position = end
        pieces.append(content[start:])
        return pieces, broken

    def _lines_of_whole_rows(self, start: int, end: int) -> int:
        """The number of lines from one position to another if there are several and all are rows, else 0."""
        if self.num_columns < 2 or not re.search(rb"[\r\n]", self.content[start:end]):
            return 0
        lines = self.content[line_start(self.content, start) : line_end(self.content, end)].splitlines()
        whole = all(line.count(self.delimiter) == self.num_columns - 1 for line in lines)
        return len(lines) if whole else 0
