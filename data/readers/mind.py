"""Read MIND: behaviors.tsv, the impressions of users with what they clicked, and news.tsv, the articles.

Format: https://github.com/msnews/msnews.github.io/blob/master/assets/doc/introduction.md (Wu et al., ACL 2020). No
header, nothing is quoted. A click in an impression is an event. What was shown and not clicked is no event, and the
clicks of the column `history` have no time, so that both are left out.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from config.params import TableFormat
from data.columns import DESCRIPTION, EVENT_TIME, EVENT_TYPE, GENRES, ITEM, TITLE, USER
from data.readers.nested import RECORD
from data.readers.reading import first_line, read_lines
from data.readers.table import RawTable, broken_lines, number_rows

BEHAVIORS = ("impression_id", USER, EVENT_TIME, "history", "impressions")
NEWS = (ITEM, "category", "subcategory", TITLE, DESCRIPTION, "url", "title_entities", "abstract_entities")
NEWS_FILE = "news.tsv"
TIME_FORMAT = "%m/%d/%Y %I:%M:%S %p"  # 11/11/2019 9:05:58 AM
_FIRST_RECORD = re.compile(r"\d+\t[^\t]*\t\d+/\d+/\d{4} \d+:\d+:\d+ [AP]M\t[^\t]*\t")
_IMPRESSIONS = r"(\S+-[01])( \S+-[01])*"


def is_behaviors(path: Path) -> bool:
    """Whether a file begins like behaviors.tsv."""
    return _FIRST_RECORD.match(first_line(path)) is not None


def read_behaviors(path: Path, table_format: TableFormat) -> RawTable:
    """One row per click."""
    table = read_lines(path, "\t", list(BEHAVIORS), table_format)
    rows = table.rows.fillna("")
    times = pd.to_datetime(rows[EVENT_TIME], format=TIME_FORMAT, utc=True, errors="coerce")
    reasons = pd.Series(None, index=rows.index, dtype=object)
    reasons[times.isna()] = f"{EVENT_TIME} is not written as 11/11/2019 9:05:58 AM"
    reasons[~rows["impressions"].str.fullmatch(_IMPRESSIONS)] = "impressions are not written as N1-1 N2-0"
    bad = rows[reasons.notna()]
    broken = broken_lines(bad.index, ["\t".join(row) for row in bad.to_numpy()], reasons[bad.index])

    rows = rows.assign(**{EVENT_TIME: times})[reasons.isna()]
    shown = pc.split_pattern(pa.array(rows["impressions"], pa.string()), " ")
    parents = pc.list_parent_indices(shown).to_numpy()
    items = pc.list_flatten(shown)
    is_click = pc.ends_with(items, "-1").to_numpy(zero_copy_only=False)
    clicks = rows.iloc[parents[is_click]]
    events = pd.DataFrame({USER: clicks[USER], EVENT_TIME: clicks[EVENT_TIME], RECORD: clicks.index})
    clicked = pc.utf8_slice_codeunits(items.filter(pa.array(is_click)), 0, -2).to_pandas()
    events = number_rows(events).assign(**{ITEM: clicked.to_numpy(), EVENT_TYPE: "click"})
    found = {**table.found, "format": "MIND", "shown_not_clicked": int((~is_click).sum())}
    return replace(table, rows=events, broken=pd.concat([table.broken, broken], ignore_index=True), found=found)


def is_news(path: Path) -> bool:
    """Whether a file begins like news.tsv."""
    return path.name == NEWS_FILE and first_line(path).count("\t") == len(NEWS) - 1


def read_news(path: Path, table_format: TableFormat) -> RawTable:
    """Articles: title, abstract, and category and subcategory as genres."""
    table = read_lines(path, "\t", list(NEWS), table_format)
    genres = table.rows["category"].str.cat(table.rows["subcategory"], sep="|")
    return replace(table, rows=table.rows[[ITEM, TITLE, DESCRIPTION]].assign(**{GENRES: genres}))
