"""MIND: the clicks of impressions are events, articles are items, and the rest is named."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from config import params
from data.readers.sources import Source, detect_format, read_source

SIMULATE = params.load(Path(__file__).resolve().parents[3] / "params.yaml").simulate
BEHAVIORS = [
    "1\tU13740\t11/11/2019 9:05:58 AM\tN55189 N42782\tN55689-1 N35729-0",
    "2\tU91836\t11/12/2019 12:05:58 PM\t\tN20678-0 N39317-1 N55689-1",
    "3\tU91836\t11/12/2019 12:00:00 AM\tN1\tN7-0",
]
NEWS = [
    "N55689\tsports\tfootball_nfl\tA \"quote\" opens\tWhat happened\thttps://example.org/a\t[]\t[]",
    "N39317\tnews\tnewsworld\tOther\t\thttps://example.org/b\t[]\t[]",
]  # fmt: skip


@pytest.fixture
def read_from(ingest_settings):
    def run(path: Path, **changes: object) -> Source:
        return read_source(ingest_settings(path=str(path), **changes), SIMULATE, 0)

    return run


def write(path: Path, lines: list[str]) -> Path:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_clicks_are_events_and_articles_are_items(tmp_path, read_from):
    write(tmp_path / "behaviors.tsv", BEHAVIORS)
    write(tmp_path / "news.tsv", NEWS)
    (tmp_path / "entity_embedding.vec").write_text("Q1\t0.1\n", encoding="utf-8")

    for path in (tmp_path, tmp_path / "behaviors.tsv"):
        source = read_from(path)

        assert source.name == "mind"
        assert source.events[["user_id", "item_id", "event_type", "record"]].to_numpy().tolist() == [
            ["U13740", "N55689", "click", 1],
            ["U91836", "N39317", "click", 2],
            ["U91836", "N55689", "click", 2],
        ]
        assert source.events["event_time"].tolist() == [
            pd.Timestamp("2019-11-11 09:05:58", tz="UTC"),
            *[pd.Timestamp("2019-11-12 12:05:58", tz="UTC")] * 2,
        ]
        assert source.found["events"]["shown_not_clicked"] == 3
        assert source.items.set_index("item_id").loc["N55689", ["title", "genres", "description"]].tolist() == [
            'A "quote" opens',
            "sports|football_nfl",
            "What happened",
        ]


def test_what_lies_in_the_history_only_is_no_event(tmp_path, read_from):
    source = read_from(write(tmp_path / "behaviors.tsv", BEHAVIORS))

    assert not source.events["item_id"].isin(["N55189", "N42782", "N1"]).any()


def test_broken_lines_are_quarantined_with_their_reason(tmp_path, read_from):
    lines = [
        BEHAVIORS[0],
        "2\tU1\t2019-11-12 12:05:58\t\tN20678-1",
        "3\tU1\t11/12/2019 12:05:58 PM\t\tN20678 N39317",
        "4\tU1\t11/12/2019 12:05:58 PM\tN1",
        "5\tU1\t13/13/2019 12:05:58 PM\t\tN20678-1",
        "6\tU1\t11/12/2019 12:05:58 PM\t\t",
    ]

    source = read_from(write(tmp_path / "behaviors.tsv", lines))

    assert source.events["record"].tolist() == [1]
    assert dict(zip(source.broken["source_row"], source.broken["reason"], strict=True)) == {
        2: "event_time is not written as 11/11/2019 9:05:58 AM",
        3: "impressions are not written as N1-1 N2-0",
        4: "line has 4 fields, not 5",
        5: "event_time is not written as 11/11/2019 9:05:58 AM",
        6: "impressions are not written as N1-1 N2-0",
    }
    assert source.broken["raw"].tolist()[1] == lines[1]


def test_a_table_of_that_name_with_a_header_is_a_table(tmp_path):
    path = write(tmp_path / "behaviors.tsv", ["user_id\titem_id\ttimestamp", "1\t2\t1700000000"])

    assert detect_format(path) == "table"
