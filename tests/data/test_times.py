"""Times convert between text, datetimes and microseconds without loss."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.times import from_datetime, from_iso, now_iso, now_us, to_iso

SECONDS = 1_714_979_289


def test_a_datetime_without_a_zone_is_utc():
    east = datetime(2024, 5, 6, 9, 8, 9, 5, tzinfo=timezone(timedelta(hours=2)))

    assert from_datetime(east) == SECONDS * 10**6 + 5
    assert from_datetime(datetime(1970, 1, 1)) == 0


def test_text_is_iso_8601_in_utc():
    assert to_iso(SECONDS * 10**6) == "2024-05-06T07:08:09Z"
    assert to_iso(1) == "1970-01-01T00:00:00.000001Z"
    assert from_iso("2024-05-06T09:08:09+02:00") == from_iso("2024-05-06T07:08:09") == SECONDS * 10**6


@given(st.integers(-(10**15), 4 * 10**15))
def test_text_converts_back_to_the_same_microsecond(time_us):
    assert from_iso(to_iso(time_us)) == time_us


def test_a_moment_that_utc_cannot_hold_is_refused():
    with pytest.raises(ValueError, match="out of range"):
        from_iso("0001-01-01T00:00:00+10:00")


def test_now_is_in_whole_seconds():
    assert 0 <= now_us() - from_iso(now_iso()) < 2 * 10**6
