"""A lost quote swallows no rows: its line is quarantined, or quotes are letters."""

from __future__ import annotations

import pytest
from table_files import FORMAT

from data.files import DataError
from data.readers.delimited import read_delimited


def read(content: str, **changes: object):
    table_format = FORMAT.model_copy(update=changes)
    frame, broken, found = read_delimited("log.csv", content.encode(), "utf-8", table_format)
    return frame.fillna("").to_numpy().tolist(), [(row, raw) for row, raw, _ in broken], found["quote"]


def test_quotes_are_letters_where_no_cell_is_quoted_and_every_line_fits():
    rows = "".join(f"u{row}\ti{row}\tplain\n" for row in range(800))
    content = f'user\titem\ttitle\nu\ti\t"Heroes\n{rows}v\tj\tLive 12" mix\n'

    cells, broken, quote = read(content)

    assert (len(cells), broken, quote) == (802, [], "read as letters")
    assert [cells[0][2], cells[-1][2]] == ['"Heroes', 'Live 12" mix']


@pytest.mark.parametrize("lost", ['4,"lost,6', '4,lost",6', '4,"lo"st,6', '"4,lost,6'])
def test_a_line_with_a_broken_quote_is_quarantined_alone(lost):
    cells, broken, _ = read(f'a,b,c\n1,"x,y",3\n{lost}\n7,8,9\n10,"z ""q""",12\n')

    assert cells == [["1", "x,y", "3"], ["7", "8", "9"], ["10", 'z "q"', "12"]]
    assert broken == [(2, lost)]


def test_a_cell_that_holds_many_whole_rows_is_a_lost_quote():
    rows = "4,5,6\n" * 20
    cells, broken, _ = read(f'a,b,c\n"x","y\nz",1\n1,2,"lost\n{rows}7,8,found"\n9,9,9\n')

    assert cells[0] == ["x", "y\nz", "1"]
    assert len(cells) == 22
    assert [raw for _, raw in broken] == ['1,2,"lost', '7,8,found"']


def test_quoted_cells_with_line_breaks_and_delimiters_stay_whole():
    cells, broken, _ = read('a,b\n"1,\n2\n,3","x ""y"""\n"4","\r\n"\n5,7" single\n')

    assert cells == [["1,\n2\n,3", 'x "y"'], ["4", "\r\n"], ["5", '7" single']]
    assert broken == []


def test_a_file_with_many_broken_quotes_is_refused_with_the_way_out():
    content = 'a,b\n"1,2",3\n' + '"4" x,5\n' * 9

    with pytest.raises(DataError, match=r"in 9 lines, .* set ingest\.formats\.events\.quote to null"):
        read(content)
    assert len(read('a,b\n"4" x,5\n' * 2, quote=None)[0]) == 3
