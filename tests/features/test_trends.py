"""Trends as of a moment equal a count by hand, over every channel."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from data.columns import DAY, HOUR
from features.trends import TrendLog

event = st.tuples(st.integers(0, 3), st.integers(0, 12 * 24), st.integers(0, 48))  # item, hour, hours until known


@given(st.lists(event, max_size=30), st.lists(st.integers(0, 14 * 24), min_size=1, max_size=6, unique=True))
@settings(max_examples=60, deadline=None)
def test_trends_count_what_had_happened_and_was_known(events: list, hours: list) -> None:
    items, times, known = (
        (np.array(column, dtype=np.int64) for column in zip(*events, strict=True))
        if events
        else (np.zeros(0, np.int64),) * 3
    )
    times, known = times * HOUR, (times + known) * HOUR
    moments = np.sort(np.array(hours)) * HOUR

    found = TrendLog(items, times, known, 4).at(moments, ["all", "window_3d", "half_life_1d"])

    for row, moment in enumerate(moments):
        for item in range(1, 4):
            ages = [
                moment - t
                for i, t, k in zip(items, times, known, strict=True)
                if i == item and t < moment and k <= moment
            ]
            by_hand = [len(ages), sum(age <= 3 * DAY for age in ages), sum(2.0 ** (-age / DAY) for age in ages)]
            np.testing.assert_allclose(found[row, item], by_hand, rtol=1e-5)
    assert (found[:, 0] == 0).all()
