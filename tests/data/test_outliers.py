"""One wrong clock moves neither the beginning nor the end of the data, and quiet periods stay."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from config import params
from data.columns import DAY, EVENT_TIME, KNOWN_TIME
from data.outliers import find_outliers
from data.tables import timestamps

START = 1_704_067_200_000_000  # 2024-01-01 UTC
YEAR = 365 * DAY
BULK = [START + hour * DAY // 24 for hour in range(1000)]  # 42 days
SETTINGS = params.load().ingest.outliers


def outliers(*times: int, bulk=BULK, now=None, known=None, **changes) -> dict[int, str]:
    """The reasons of `times`, which are added to the bulk, by their places."""
    events = pd.DataFrame({EVENT_TIME: timestamps(np.array([*bulk, *times], dtype="int64"))})
    events[KNOWN_TIME] = events[EVENT_TIME] if known is None else timestamps(np.full(len(events), known))
    reasons = find_outliers(events, SETTINGS.model_copy(update=changes), now)
    return {place - len(bulk): reason for place, reason in reasons.items()}


def test_an_event_years_before_or_after_all_others_is_one():
    assert outliers(START - 49 * YEAR, BULK[-1] + YEAR, START + 5) == {
        0: "event_time lies apart from all others, before 2024-01-01T00:00:00Z (ingest.outliers)",
        1: "event_time lies apart from all others, after 2024-02-11T15:00:00Z (ingest.outliers)",
    }


def test_several_outliers_are_found_together():
    assert len(outliers(*(START + n * YEAR for n in (-20, -3, 2, 9)))) == 4
    assert len(outliers(*[BULK[-1] + YEAR] * 10)) == 10


@pytest.mark.parametrize(
    "times",
    [
        [BULK[-1] + 89 * DAY],  # a pause of less than 90 days
        [BULK[-1] + YEAR] * 11,  # more than 10 of 1,000 events
        [START - YEAR] * 11,
    ],
)
def test_a_short_pause_and_many_events_are_no_outliers(times):
    assert outliers(*times) == {}


def test_histories_with_quiet_periods_stay_whole():
    seasons = [START + year * YEAR + hour * DAY // 24 for year in range(4) for hour in range(1000)]
    long = [START + hour * DAY // 6 for hour in range(6 * 365 * 10)]  # ten years

    assert outliers(seasons[-1] + YEAR, bulk=seasons) == {}
    assert outliers(long[-1] + YEAR - 9 * DAY, bulk=long) == {}
    assert outliers(long[-1] + YEAR + DAY, bulk=long) != {}


def test_few_events_show_no_bulk():
    assert outliers(START + 30 * YEAR, bulk=BULK[:98]) == {}
    assert outliers(START + 30 * YEAR, bulk=BULK[:99]) != {}


def test_events_after_the_ingest_are_outliers_unless_most_are():
    now = BULK[-1]
    ahead = "event_time lies more than 1 days after this ingest (ingest.outliers.future_days)"

    assert outliers(now + DAY, now + DAY + 1, now=now) == {1: ahead}
    assert len(outliers(*[now + 2 * DAY] * 999, now=now)) == 999
    assert outliers(*[now + 2 * DAY] * 1001, now=now) == {}
    assert outliers(now + 2 * DAY, now=now, future_days=None) == {}
    assert outliers(now + 2 * DAY) == {}


def test_a_known_time_after_the_ingest_is_named_too():
    events = pd.DataFrame({EVENT_TIME: timestamps(np.array([START, START, START]))})
    events[KNOWN_TIME] = timestamps(np.array([START, START, START + 9 * DAY]))

    assert find_outliers(events, SETTINGS, START).to_dict() == {
        2: "known_time lies more than 1 days after this ingest (ingest.outliers.future_days)"
    }


@settings(max_examples=30, deadline=None)
@given(places=st.permutations(range(103)))
def test_the_order_of_events_does_not_matter(places):
    times = np.array([*BULK[:101], START - 30 * YEAR, START + 30 * YEAR])[places]
    events = pd.DataFrame({EVENT_TIME: timestamps(times), KNOWN_TIME: timestamps(times)})

    assert sorted(places[place] for place in find_outliers(events, SETTINGS, None).index) == [101, 102]
