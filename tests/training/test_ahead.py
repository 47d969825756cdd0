"""Who is asked ahead of time is who an evaluation of `horizon` at that moment would ask."""

from __future__ import annotations

import numpy as np

from data.columns import DAY
from training.windows import AheadPool

USERS = np.array([0, 0, 0, 1, 2, 2])
TIMES = np.array([10, 10, 13, 40, 11, 60]) * DAY + 5


def drawn(half_life: float | None = None, count: int = 20_000) -> tuple[np.ndarray, np.ndarray]:
    user, time = AheadPool(USERS, TIMES, 4, half_life).draw(count, np.random.default_rng(0))
    return user, time // DAY


def test_a_user_is_asked_on_the_days_from_which_an_event_is_less_than_the_window_away() -> None:
    user, day = drawn()

    for row in range(3):
        ahead = (TIMES // DAY)[row == USERS] - np.arange(10, 70)[:, None]  # no day lies before the first event
        acts = ((ahead >= 0) & (ahead < 4)).any(axis=1)
        assert sorted(set(day[user == row])) == (np.flatnonzero(acts) + 10).tolist()


def test_every_day_weighs_the_same_however_many_users_it_has() -> None:
    _, day = drawn()
    _, counts = np.unique(day, return_counts=True)

    assert np.abs(counts / counts.mean() - 1).max() < 0.1


def test_a_day_one_half_life_older_is_drawn_half_as_often() -> None:
    _, day = drawn(half_life=20.0, count=200_000)

    assert abs((day == 39).sum() / (day == 59).sum() - 0.5) < 0.03


def test_no_events_give_no_questions() -> None:
    nothing = np.empty(0, dtype=np.int64)
    user, time = AheadPool(nothing, nothing, 4, None).draw(5, np.random.default_rng(0))

    assert len(user) == len(time) == 0
