"""The ingest report: its numbers add up, what looks suspicious comes first, and limits stop the pipeline."""

from __future__ import annotations

import json
from collections import Counter

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data import ingest
from data.cleaning import clean
from data.files import DataError
from data.ingest_report import LEFT_OUT, build_report, page, require_limits, summary
from data.readers.sources import Source
from data.readers.table import broken_lines

DAY_1 = 1_704_067_200  # 2024-01-01 UTC
HOUR, DAY = 3600, 86_400
NOW = pd.Timestamp("2024-03-01", tz="UTC")


def event(user="u", item="i", time=DAY_1, **more) -> dict:
    return {"user_id": user, "item_id": item, "event_time": time, **more}


def numbered(rows: list[dict] | None) -> pd.DataFrame | None:
    return None if rows is None else pd.DataFrame(rows, index=range(1, len(rows) + 1), dtype=object)


def source(events, users=None, items=None, broken=()) -> Source:
    lines = broken_lines(range(1000, 1000 + len(broken)), ["?"] * len(broken), ["cannot be parsed"] * len(broken))
    frame = numbered(events)
    assert frame is not None
    return Source(
        name="table",
        events=frame,
        users=numbered(users),
        items=numbered(items),
        files=(),
        broken=lines.assign(table=list(broken)),
        found={"events": {"files": ["log.csv"], "encoding": "utf-8"}},
    )


@pytest.fixture
def report_of(ingest_settings):
    def report(events, users=None, items=None, broken=(), **changes) -> dict:
        one = source(events, users, items, broken)
        return build_report(one, clean(one, ingest_settings(**changes)), "shop")

    return report


def spread(users=10, items=10, step=HOUR + 7) -> list[dict]:
    """Events without anything suspicious: every user takes every item, at times of their own."""
    return [
        event(f"u{user}", f"i{item}", DAY_1 + (user * items + item) * step)
        for user in range(users)
        for item in range(items)
    ]


# Numbers


EVENTS = st.fixed_dictionaries({
    "user_id": st.sampled_from(["a", "b", "c", " ", None]),
    "item_id": st.sampled_from(["x", "y", "z", None]),
    "event_time": st.sampled_from([DAY_1, DAY_1 + 1, "yesterday", None]),
    "event_type": st.sampled_from(["play", "view"]),
    "value": st.sampled_from([1, 5, "?", None]),
    "event_id": st.sampled_from(["1", "2", "3", None]),
})  # fmt: skip
USERS = st.fixed_dictionaries({
    "user_id": st.sampled_from(["a", "b", "b", None]),
    "consent_training": st.sampled_from(["true", "false"]),
})  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(
    events=st.lists(EVENTS, min_size=1, max_size=40),
    users=st.none() | st.lists(USERS, min_size=1, max_size=6),
    broken=st.lists(st.sampled_from(["events", "users"]), max_size=3),
    rule=st.sampled_from(["first", "last", "all"]),
)
def test_the_rows_of_every_table_add_up_to_the_rows_read(ingest_settings, events, users, broken, rule):
    broken = [table for table in broken if table == "events" or users is not None]
    one = source(events, users, broken=broken)
    try:
        result = clean(one, ingest_settings(event_types=["play"], min_value=2, repeats=rule))
    except DataError:  # nothing is left
        return
    report = build_report(one, result, "shop")

    for name, given_rows in (("events", events), ("users", users)):
        if given_rows is None:
            assert name not in report["tables"]
            continue
        rows = report["tables"][name]["rows"]
        assert rows["read"] == len(given_rows) + broken.count(name)
        assert rows["read"] == rows["kept"] + sum(rows.get(key, 0) for key in LEFT_OUT)
        assert rows["quarantined"] == sum(reason["rows"] for reason in report["tables"][name]["quarantined"])
    assert report["tables"]["events"]["rows"]["kept"] == len(result.events)


def test_a_row_of_a_side_table_that_only_repeats_another_is_a_duplicate_not_an_error(report_of):
    items = [{"item_id": "i1", "title": "A"}] * 3 + [{"item_id": "i1", "title": "B"}, {"item_id": "i2", "title": "C"}]

    table = report_of(spread(), items=items)["tables"]["items"]

    assert table["rows"] == {"read": 5, "kept": 2, "quarantined": 1, "duplicates": 2}
    assert [reason["reason"] for reason in table["quarantined"]] == ["item_id occurs twice"]


def test_reasons_come_most_frequent_first_with_their_share_and_first_row(report_of):
    report = report_of([*spread(), event(time="never"), event(time="never"), event(user=None)])

    first, second = report["tables"]["events"]["quarantined"]
    assert (first["reason"], first["rows"], first["share"]) == ("event_time is not a time", 2, round(2 / 103, 6))
    assert first["first"].startswith('row 101: {"user_id": "u"')
    assert (second["reason"], second["rows"]) == ("user_id is blank", 1)


def test_the_report_says_what_the_reader_found_and_what_the_events_span(report_of):
    report = report_of(spread())

    assert report["tables"]["events"]["found"] == {
        "files": ["log.csv"],
        "encoding": "utf-8",
        "times": {"event_time": "epoch seconds"},
    }
    assert report["events"] | {"days": 5} == report["events"]
    assert (report["events"]["users"], report["events"]["items"]) == (10, 10)
    assert report["events"]["first"] == "2024-01-01T00:00:00Z"
    assert "events: 100 rows read, 100 kept (files log.csv, encoding utf-8, times event_time epoch seconds)" in summary(
        report, NOW
    )


# Findings


def test_plain_events_have_no_finding(report_of):
    assert report_of(spread())["findings"] == []


@pytest.mark.parametrize(
    ("events", "finding"),
    [
        ([one | {"event_time": one["event_time"] + again} for again in range(3) for one in spread()], "events: 200 of 300 (66.7%) repeat a (user, item) pair and were dropped"),
        (
            [*spread(), *(event("bot", f"i{number}", DAY_1 + number) for number in range(30))],
            "events: 23.1% are of one user; a bot",
        ),
        (spread(step=DAY), "events: all are at 00:00:00 UTC, so their order within a day is unknown"),
        (spread(step=1), "events: all are of one day, 2024-01-01"),
        (
            [one | {"event_time": DAY_1 + HOUR * int(one["user_id"][1:]) + DAY * (number % 3)}
             for number, one in enumerate(spread())],
            "events: 100.0% share their time with another one of the same user",
        ),
        ([one | {"value": "1"} for one in spread()], "events: value is 1 in every row"),
        (
            [*spread(), event(user=None), event(user=None)],
            "events: 2 of 102 (2.0%) rows are in quarantine: user_id is blank (2, first row 101",
        ),
        (
            [one | {"item_id": f"12345678901234{one['item_id'][1:]}000"} for one in spread()],
            "item_id: long ids were rounded by a spreadsheet",
        ),
    ],
)  # fmt: skip
def test_what_looks_suspicious_is_found(report_of, events, finding):
    findings = report_of(events)["findings"]

    assert [one for one in findings if one.startswith(finding)], findings


def test_ids_of_side_tables_that_do_not_meet_the_events_come_with_examples(report_of, ingest_settings):
    items = [{"item_id": f"x{number}"} for number in range(5)]

    report = report_of(spread(), items=items)

    (finding,) = report["findings"]
    assert finding == ("items: no item_id occurs in the events; items has 'x0' and 'x1', the events have 'i0' and 'i1'")
    assert "items: 5 rows read, 5 kept, describes 0 of 10 (0.0%) ids of the events" in summary(report, NOW)
    require_limits(report, ingest_settings(min_matched=0))
    with pytest.raises(
        DataError, match=r"items describes 0 of 10 \(0\.0%\) ids of the events; ingest.min_matched is 0.1"
    ):
        require_limits(report, ingest_settings(min_matched=0.1))


def test_a_trait_with_one_value_is_found(report_of):
    users = [{"user_id": f"u{number}", "country": "FR", "age": number, "plan": None} for number in range(10)]

    findings = report_of(spread(), users=users)["findings"]

    assert findings == ["users: country is 'FR' in every row", "users: plan is empty in every row"]


def test_findings_are_printed_before_the_rows_and_lead_the_page(report_of):
    report = report_of(spread(step=1))

    assert summary(report, NOW).splitlines()[0] == "! events: all are of one day, 2024-01-01"
    assert page(report).index("all are of one day") < page(report).index("<h2>Rows")


def test_an_end_in_the_future_is_printed_but_not_stored(report_of):
    report = report_of(spread())

    text = summary(report, pd.Timestamp("2024-01-02", tz="UTC"))

    assert text.startswith("! events: the last is in the future, 2024-01-05")
    assert "future" not in summary(report, NOW)
    assert "future" not in json.dumps(report)


def test_content_of_cells_cannot_inject_markup(report_of):
    report = report_of([*spread(), *[event("<script>alert(1)</script>", time="never")] * 5])

    assert "<script>alert" in json.dumps(report)
    assert "<script>alert" not in page(report)


# Limits


def test_too_many_unusable_rows_stop_ingest_with_reasons_and_leave_what_was_there(tmp_path, params_file, capsys):
    log, out = tmp_path / "log.csv", tmp_path / "out"
    lines = [f"u{number},i,2024-01-0{number}" for number in range(1, 6)]
    log.write_text("\n".join(["user_id,item_id,event_time", *lines]), encoding="utf-8")
    assert ingest.main(["--params", str(params_file(path=str(log))), "--out", str(out)]) == 0
    before = {file.name: file.read_bytes() for file in out.iterdir()}
    log.write_text("\n".join(["user_id,item_id,event_time", *lines[:3], "v,i,soon", "w,i,soon"]), encoding="utf-8")
    capsys.readouterr()

    code = ingest.main(["--params", str(params_file(path=str(log), max_quarantine=0.3)), "--out", str(out)])

    assert code == 2
    error = capsys.readouterr().err
    assert error.startswith(
        "error: ingest: 2 of 5 (40.0%) rows of events cannot be used; ingest.max_quarantine is 0.3; "
        'event_time is not a time (2, first row 4: {"user_id": "v"'
    )
    assert error.count("\n") == 1
    assert {file.name: file.read_bytes() for file in out.iterdir()} == before


def test_the_limit_holds_for_side_tables_too(report_of, ingest_settings):
    report = report_of(spread(), items=[{"item_id": "i1"}, {"item_id": None}, {"item_id": None}])

    with pytest.raises(DataError, match=r"2 of 3 \(66\.7%\) rows of items cannot be used; .* item_id is blank"):
        require_limits(report, ingest_settings(max_quarantine=0.5))
    require_limits(report, ingest_settings(max_quarantine=0.7))


# The stage


def test_the_stage_writes_the_same_report_twice(tmp_path, params_file):
    log = tmp_path / "log.csv"
    log.write_text("user_id,item_id,event_time\na,x,2024-01-01\nb,y,2024-01-02\n", encoding="utf-8")
    written = []
    for name in ("one", "two"):
        assert ingest.main(["--params", str(params_file(path=str(log))), "--out", str(tmp_path / name)]) == 0
        written.append({file.name: file.read_bytes() for file in (tmp_path / name).iterdir()})

    assert written[0] == written[1]
    report = json.loads(written[0]["report.json"])
    assert report["tables"]["events"]["rows"]["kept"] == 2
    assert Counter(report["events"]["event_types"]) == {"interaction": 2}
