"""No training case sees what could not be known, and horizon cases are drawn as an evaluation would meet them."""

from __future__ import annotations

import numpy as np
import pytest
from made_features import checkerboard

from data.columns import DAY, HOUR
from features.sequences import InteractionLog
from training.timeline import HorizonTargetSampler, Timeline, cut_rows


def log(times: list[int], known: list[int] | None = None) -> InteractionLog:
    """One user's events, items 1, 2, ..., at hours."""
    hours = np.array(times, dtype=np.int64) * HOUR
    late = hours if known is None else np.array(known, dtype=np.int64) * HOUR
    items = np.arange(1, len(times) + 1)
    return InteractionLog(
        np.array([0, len(times)]), items, hours, late, np.zeros((len(times), 0), int), np.zeros((1, 0), int)
    )


def test_events_of_one_time_share_a_case_and_never_see_one_another() -> None:
    cases = Timeline(log([1, 2, 2, 2, 5])).next_item_cases()

    assert cases.visible.tolist() == [0, 1, 4]
    assert list(zip(cases.first.tolist(), cases.stop.tolist(), strict=True)) == [(0, 1), (1, 4), (4, 5)]


def test_an_event_hides_what_follows_it_until_it_is_known() -> None:
    cases = Timeline(log([1, 2, 3, 4], known=[1, 3, 3, 4])).next_item_cases()

    assert cases.visible.tolist() == [0, 1, 2, 3]  # known at 3 is known to a case of 3
    late = Timeline(log([1, 2, 3, 9], known=[1, 8, 3, 9])).next_item_cases()
    assert late.visible.tolist() == [0, 1, 1, 3]


def test_tied_events_become_visible_together() -> None:
    cases = Timeline(log([1, 1, 5, 9], known=[1, 7, 5, 9])).next_item_cases()

    assert cases.visible.tolist() == [0, 0, 3]


def test_a_horizon_case_sees_only_what_lay_before_and_predicts_all_of_its_days() -> None:
    timeline = Timeline(log([0, 24, 48, 24 * 40]))
    moments = np.random.default_rng(0).integers(0, 40 * DAY, size=150)
    cases = timeline.horizon_cases(np.zeros(150, dtype=np.int64), moments, 10)

    for row in range(len(cases)):
        moment = cases.time[row]
        wanted = (timeline.times >= moment) & (timeline.times < moment + 10 * DAY)
        assert np.flatnonzero(wanted).tolist() == list(range(cases.first[row], cases.stop[row]))
        assert cases.visible[row] == (timeline.times < moment).sum()


@pytest.mark.parametrize("max_history", [4, 7, 50])
def test_every_case_finds_its_history_in_its_row(max_history: int) -> None:
    timeline = Timeline(checkerboard().log)
    cases = timeline.next_item_cases()
    rows = cut_rows(timeline, cases, max_history, np.random.default_rng(0))

    assert rows.length.max() <= max_history
    begin = rows.begin[rows.of_case]
    start = timeline.offsets[cases.user]
    np.testing.assert_array_equal(begin + rows.position, start + cases.visible)
    assert (begin >= start).all()
    assert (rows.position <= rows.length[rows.of_case]).all()
    assert (rows.position >= np.minimum(cases.visible, max_history // 4)).all()


USERS = np.array([0, 0, 0, 1, 2, 2])
TIMES = np.array([10, 10, 13, 40, 11, 60]) * DAY + 5


def drawn(half_life: float | None = None, count: int = 20_000) -> tuple[np.ndarray, np.ndarray]:
    user, time = HorizonTargetSampler(USERS, TIMES, 4, half_life).draw(count, np.random.default_rng(0))
    return user, time // DAY


def test_a_user_is_drawn_on_the_days_before_an_event_within_the_horizon() -> None:
    user, day = drawn()

    for row in range(3):
        ahead = (TIMES // DAY)[row == USERS] - np.arange(10, 70)[:, None]  # no day lies before the first event
        acts = ((ahead >= 0) & (ahead < 4)).any(axis=1)
        assert sorted(set(day[user == row])) == (np.flatnonzero(acts) + 10).tolist()


def test_every_day_is_drawn_alike_however_many_users_it_has() -> None:
    _, day = drawn()
    _, counts = np.unique(day, return_counts=True)

    assert np.abs(counts / counts.mean() - 1).max() < 0.1


def test_a_day_one_half_life_older_is_drawn_half_as_often() -> None:
    _, day = drawn(half_life=20.0, count=200_000)

    assert abs((day == 39).sum() / (day == 59).sum() - 0.5) < 0.03


def test_no_events_give_no_cases() -> None:
    nothing = np.empty(0, dtype=np.int64)
    user, time = HorizonTargetSampler(nothing, nothing, 4, None).draw(5, np.random.default_rng(0))

    assert len(user) == len(time) == 0
