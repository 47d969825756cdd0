"""Every common notation of a time is parsed to the same microsecond."""

from __future__ import annotations

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.tables import microseconds
from data.time_columns import read_times

MOMENT = pd.Timestamp("2024-05-06T07:08:09", tz="UTC")
SECONDS = 1_714_979_289


@pytest.mark.parametrize(
    "cell",
    [
        SECONDS,
        str(SECONDS),
        float(SECONDS),
        SECONDS * 10**3,
        str(SECONDS * 10**6),
        SECONDS * 10**9,
        "2024-05-06T07:08:09",
        "2024-05-06 07:08:09Z",
        "2024-05-06T09:08:09+02:00",
        "20240506T070809",
        MOMENT,
        MOMENT.tz_localize(None),
    ],
)
def test_every_writing_of_a_moment_is_the_same_microsecond(cell):
    times = read_times(pd.Series([cell]), "auto")

    assert str(times.dtype) == "datetime64[us, UTC]"
    assert times[0] == MOMENT


@pytest.mark.parametrize("cell", ["yesterday", "now", "today", "12/1/2010 8:26", "2024-13-45", None, "nan"])
def test_text_that_is_not_a_time_becomes_null(cell):
    assert read_times(pd.Series([cell], dtype=object), "auto").isna().all()


def test_a_unit_that_is_given_wins_over_the_magnitude():
    assert read_times(pd.Series(["2000000000"]), "ms")[0] == pd.Timestamp("1970-01-24T03:33:20", tz="UTC")


def test_fractions_of_seconds_survive():
    assert read_times(pd.Series(["1714979289.123456"]), "auto")[0] == MOMENT + pd.Timedelta(microseconds=123456)


@given(
    unit=st.sampled_from(["s", "ms", "us"]),
    seconds=st.integers(32_000_000, 4_102_000_000),
)
def test_every_moment_after_1971_shows_its_unit(unit, seconds):
    number = seconds * {"s": 1, "ms": 10**3, "us": 10**6}[unit]

    assert microseconds(read_times(pd.Series([number]), "auto"))[0] == seconds * 10**6
