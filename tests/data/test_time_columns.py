"""Every common notation of a time is read as the same instant, and what can be read in two ways is refused."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from email.utils import format_datetime
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.files import DataError
from data.tables import microseconds
from data.time_columns import EARLIEST_RELEASE, TimeColumn, holds_times, read_times
from data.times import from_iso

MOMENT = pd.Timestamp("2024-01-31T22:15:00", tz="UTC")
SECONDS = 1_706_739_300


def read(cells, table="events", name="event_time", **settings) -> TimeColumn:
    values = cells if isinstance(cells, pd.Series) else pd.Series(cells, dtype=object)
    return read_times(values.rename(name), table, **settings)


def problem(cells, **settings) -> str:
    """The one reason why a cell of the column is no time."""
    return read(cells, **settings).problems.item()


@pytest.mark.parametrize(
    "cell",
    [
        SECONDS,
        str(SECONDS),
        float(SECONDS),
        "1.706739300E+09",
        Decimal(SECONDS),
        SECONDS * 10**3,
        str(SECONDS * 10**6),
        SECONDS * 10**9,
        "2024-01-31T22:15:00",
        " 2024-01-31 22:15:00Z ",
        "2024-1-31 22:15",
        "2024/01/31 22:15",
        "2024-01-31 10:15 PM",
        "2024-01-31T23:15:00,000+01",
        "2024-01-31T23:15:00+0100",
        "2024-01-31T23:15:00+01:00[Europe/Berlin]",
        "2024-01-31 23:15:00 Europe/Berlin",
        "2024-01-31 22:15:00 UTC",
        "2024-01-31 17:15:00 EST",
        "20240131T221500Z",
        "Wed, 31 Jan 2024 22:15:00 GMT",
        "Wed Jan 31 22:15:00 UTC 2024",
        "Wed Jan 31 2024 23:15:00 GMT+0100 (Central European Standard Time)",
        "31/Jan/2024:22:15:00 +0000",
        "January 31, 2024 10:15 PM",
        "01/31/2024 10:15:00 PM",
        "31.01.2024 22:15",
        datetime(2024, 1, 31, 22, 15),
        MOMENT,
        MOMENT.tz_convert("Asia/Tokyo"),
        b"2024-01-31T22:15:00",
    ],
)
def test_every_writing_of_a_moment_is_the_same_microsecond(cell):
    times = read([cell]).times

    assert str(times.dtype) == "datetime64[us, UTC]"
    assert times[0] == MOMENT


def test_days_and_hours_begin_where_they_begin():
    assert read([date(2024, 1, 31), "2024-01-31", "31-Jan-2024"][:2]).times.eq(MOMENT.floor("D")).all()
    assert read(["2024-01-31 22"]).times[0] == MOMENT.floor("h")
    assert read(["2024-01-31T24:00"]).times[0] == MOMENT.ceil("D")


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
@pytest.mark.parametrize("zone", [None, "UTC", "Asia/Tokyo"])
def test_timestamps_of_any_unit_and_zone_are_read(unit, zone):
    wall = MOMENT.tz_convert(zone).tz_localize(None) if zone else MOMENT.tz_localize(None)
    values = pd.Series([wall]).astype(f"datetime64[{unit}]").dt.tz_localize(zone)

    assert read(values).times[0] == MOMENT
    if zone is None:
        assert read(values, timezone="Europe/Berlin").times[0] == MOMENT - pd.Timedelta(hours=1)


def test_integers_are_exact_and_finer_parts_are_cut_off():
    nanoseconds = SECONDS * 10**9 + 123_456_789  # no double holds it

    assert read([nanoseconds]).times[0] == read(["2024-01-31T22:15:00.123456789Z"]).times[0]
    assert microseconds(read([nanoseconds]).times)[0] == SECONDS * 10**6 + 123_456


@pytest.mark.parametrize("cell", ["yesterday", "now", "today", "2024-13-45", "2024-02-30", "nan", True, float("inf")])
def test_what_is_not_a_time_is_a_problem_of_its_cell(cell):
    column = read(["2024-01-31T22:15", "2024-01-31", cell, None, " "])

    assert column.times.isna().tolist() == [False, False, True, True, True]
    assert column.problems.to_dict() == {2: "event_time is not a time"}
    assert column.found == "ISO 8601"


@pytest.mark.parametrize(
    ("cell", "reason"),
    [
        ("9999-12-31", "is a placeholder for no time (year 0, 1 or 9999)"),
        ("0001-01-01T00:00:00Z", "is a placeholder for no time (year 0, 1 or 9999)"),
        ("0000-00-00 00:00:00", "is a placeholder for no time (year 0, 1 or 9999)"),
        ("1970-01-01", "is out of range (1971 to 2100)"),
        ("2100-01-01", "is out of range (1971 to 2100)"),
        ("2016-12-31T23:59:60Z", "is a leap second"),
        ("2024-01-31 22:15 CET", "has an unknown time zone"),
        ("2024-01-31 22:15 Europe/Atlantis", "has an unknown time zone"),
        ("2024-03-31 02:30 Europe/Berlin", "does not exist in Europe/Berlin (clocks go forward)"),
        ("2024-10-27 02:30 Europe/Berlin", "occurs twice in Europe/Berlin (clocks go back)"),
        (SECONDS, "is of another format (epoch seconds) than most cells (ISO 8601)"),
        ("2024-W05", "is of another format (weeks or days of the year) than most cells (ISO 8601)"),
    ],
)
def test_odd_times_are_named(cell, reason):
    assert problem(["2024-01-31", "2024-02-01", cell]) == f"event_time {reason}"


def test_a_time_that_clocks_skip_or_show_twice_is_named():
    cells = ["2024-03-31 02:30", "2024-10-27 02:30", "2024-07-01 00:00"]

    column = read(cells, timezone="Europe/Berlin")

    assert column.problems.to_dict() == {
        0: "event_time does not exist in Europe/Berlin (clocks go forward)",
        1: "event_time occurs twice in Europe/Berlin (clocks go back)",
    }
    assert column.times[2] == pd.Timestamp("2024-06-30T22:00Z")


# A column that is refused as a whole


@pytest.mark.parametrize(
    ("cell", "seen", "way_out"),
    [
        (20240131, "a date (2024-01-31 00:00:00) or an epoch number in s (1970-08-23 06:15:31)", "'%Y%m%d' or s"),
        ("202401312215", "a date (2024-01-31 22:15:00) or an epoch number in ms (1976-05-31", "'%Y%m%d%H%M' or ms"),
        (20240131221500.0, "a date (2024-01-31 22:15:00)", "'%Y%m%d%H%M%S' or us"),
        ("2024013122", "a date (2024-01-31 22:00:00) or an epoch number in s (2034-02-20", "'%Y%m%d%H' or s"),
        ("45322.927083", "days of a spreadsheet (Excel) (2024-01-31 22:1", "convert them to ISO 8601"),
        (19753, "days since 1970 (2024-01-31", "convert them"),
        (2460341.4, "Julian days (2024-01-31", "convert them"),
        (
            133_512_129_000_000_000,
            "Windows file times (2024-01-31 22:15:00) or an epoch number in ns (1974-03-26",
            "ns",
        ),
        (638_423_361_000_000_000, ".NET ticks (2024-01-31 22:15:00)", "ns"),
        (13_351_212_900_000_000, "microseconds since 1601 (WebKit) (2024-01-31 22:15:00)", "convert them"),
        (728_432_100.5, "seconds since 2001 (Apple) (2024-01-31 22:15:00) or an epoch number in s (1993-01-30", "s"),
        ("01/02/2024 10:15 PM", "day 01 of month 02, or day 02 of month 01", "'%d/%m/%Y %I:%M %p' or '%m/%d/%Y"),
        ("1/31/24", "years of two digits", "such as '%m/%d/%y'"),
        ("2024-01", "months have no day", "'%Y-%m' reads their first day"),
        (2024, "years have no day", "'%Y' reads their first day"),
        ("2024-W05-3", "", "such as '%G-W%V-%u' or '%Y-%j'"),
        (time(22, 15), "a time of day has no date", ""),
        (5, "before 1971 or after 2100", "s, ms, us or ns"),
    ],
)
def test_what_can_be_read_in_two_ways_is_refused_with_both_and_the_way_out(cell, seen, way_out):
    with pytest.raises(DataError) as error:
        read([None, cell])
    message = str(error.value)
    assert message.startswith("events: event_time holds ")
    assert seen in message
    assert way_out in message
    assert "\n" not in message


def test_a_column_that_has_both_orders_of_days_and_months_is_refused():
    with pytest.raises(DataError, match="both orders occur"):
        read(["31/01/2024", "02/13/2024"])


def test_a_column_without_a_majority_is_refused():
    with pytest.raises(DataError, match=r"1 epoch seconds \(first: '1706739300'\), 1 ISO 8601 \(first: '2024-01-31'\)"):
        read([SECONDS, "2024-01-31"])
    assert read([SECONDS, SECONDS, SECONDS * 1000]).times.isna().tolist() == [False, False, True]


# Set formats


@pytest.mark.parametrize(
    ("cell", "time_format"),
    [
        ("01.02.2024 10:15 PM", "%d.%m.%Y %I:%M %p"),
        (20240201221500, "%Y%m%d%H%M%S"),
        ("01022024 2215", "%d%m%Y %H%M"),
        (1_706_825_700.0, "s"),
        ("1706825700000", "ms"),
        ("2024-02-01T23:15+01:00", "%Y-%m-%dT%H:%M%z"),
    ],
)
def test_a_set_format_decides(cell, time_format):
    column = read([cell], time_format=time_format)

    assert column.times[0] == MOMENT + pd.Timedelta(days=1)
    assert column.found == time_format


def test_cells_that_do_not_fit_a_set_format_are_named():
    assert problem(["31.01.2024", "x"], time_format="%d.%m.%Y") == "event_time does not fit time_format %d.%m.%Y"
    assert problem([SECONDS, "x"], time_format="s") == "event_time is no number of epoch seconds"
    with pytest.raises(DataError, match=r"time_format is '%d', which no cell of event_time fits; first: '2024-01-31'"):
        read(["2024-01-31"], time_format="%d")
    # The other time columns of the table may have another format.
    assert read(["2024-01-31T22:15"], name="known_time", time_format="s").times[0] == MOMENT


# Release times and traits


def test_release_times_are_as_old_as_films_and_may_be_periods():
    cells = ["1874-12-09", "1981-12", "1981", "2999-01-01"]

    column = read(cells, table="items", name="release_time", earliest=EARLIEST_RELEASE, periods=True)

    assert [str(moment)[:10] for moment in column.times] == ["1874-12-09", "1981-12-01", "1981-01-01", "NaT"]
    assert column.problems.to_dict() == {3: "release_time is out of range (1800 to 2100)"}


def test_traits_that_are_dates_are_times():
    assert holds_times(pd.Series(["2024-01-31", None]))
    assert holds_times(pd.Series([date(2024, 1, 31)]))
    assert holds_times(pd.Series(["2024-01-31"] * 9 + ["unknown"]))
    assert not holds_times(pd.Series(["2024-01-31", "unknown"]))
    assert not holds_times(pd.Series([SECONDS]))
    assert not holds_times(pd.Series([None], dtype=object))


# Any instant, in any format

often = settings(max_examples=30, deadline=None)
instants = st.datetimes(datetime(1996, 1, 1), datetime(2029, 12, 31), timezones=st.just(UTC))
offsets = st.integers(-14 * 4, 14 * 4).map(lambda quarters: timezone(timedelta(minutes=15 * quarters)))
EXACT = {
    "epoch us": lambda moment: str(round(moment.timestamp() * 10**6)),
    "epoch ns": lambda moment: round(moment.timestamp() * 10**6) * 1000,
    "epoch s": lambda moment: f"{moment.timestamp():.6f}",
    "float s": lambda moment: moment.timestamp(),
    "iso": lambda moment: moment.isoformat(),
    "iso words": lambda moment: moment.astimezone(UTC).strftime("%Y/%m/%d %H:%M:%S,%f UTC"),
    "basic": lambda moment: moment.strftime("%Y%m%dT%H%M%S.%f%z"),
    "zone": lambda moment: moment.astimezone(ZoneInfo("Asia/Tokyo")).strftime("%Y-%m-%d %H:%M:%S.%f Asia/Tokyo"),
    "named": lambda moment: moment.strftime("%d %B %Y %I:%M:%S.%f %p %z"),
    "object": lambda moment: moment,
}


@pytest.mark.slow
@pytest.mark.parametrize("name", EXACT)
@often
@given(moments=st.lists(instants, min_size=1, max_size=4), offset=offsets)
def test_any_instant_reads_back_exactly(name, moments, offset):
    times = read([EXACT[name](moment.astimezone(offset)) for moment in moments]).times

    assert times.tolist() == moments


@often
@given(moment=instants.map(lambda moment: moment.replace(microsecond=0)), offset=offsets)
def test_mail_dates_read_back_exactly(moment, offset):
    assert read([format_datetime(moment.astimezone(offset))]).times[0] == moment


@often
@given(moment=instants, offset=st.none() | offsets, timespec=st.sampled_from(["auto", "minutes", "milliseconds"]))
def test_requests_and_columns_read_iso_text_alike(moment, offset, timespec):
    text = (moment.astimezone(offset) if offset else moment.replace(tzinfo=None)).isoformat(timespec=timespec)

    assert microseconds(read([text]).times)[0] == from_iso(text)


@often
@given(data=st.data(), foreign=st.sampled_from(["x", "20240131", SECONDS, "1/2/2024", "2024-01", "31 Jan 2024", ""]))
def test_neither_order_nor_a_foreign_cell_changes_the_others(data, foreign):
    cells = [*(f"2024-01-{day:02d} 08:00" for day in range(1, 8)), foreign]
    order = data.draw(st.permutations(range(8)))

    plain, shuffled = read(cells), read([cells[place] for place in order])

    assert shuffled.times.tolist()[order.index(0)] == plain.times[0]
    assert shuffled.times.reindex(np.argsort(order)).tolist()[:7] == read(cells[:7]).times.tolist()
    assert shuffled.problems.tolist() == plain.problems.tolist()
