"""Whom to ask ahead of time, and when: the moments that an evaluation of `window` would meet.

Legend: E events, n pairs of a user and a day, m draws.
"""

from __future__ import annotations

import numpy as np

from data.columns import DAY


class AheadPool:
    """Every (user, day) such that the user acts within `days` of that day's beginning.

    At one moment `window` ranks for whoever acts soon, each user once. So a day is drawn first, then one of its
    users: drawn by user or by event instead, the crowd of a platform's first weeks, or whoever acts all the
    time, would decide what a model learns of everybody else.

    Args:
        users: (E,) user rows, ascending.
        times: (E,) microseconds, ascending within each user.
        days: how far ahead is asked.
        half_life_days: a day that is this much older is drawn half as often; None draws all alike.
    """

    def __init__(self, users: np.ndarray, times: np.ndarray, days: int, half_life_days: float | None) -> None:
        day = times // DAY
        first = np.flatnonzero(np.diff(users, prepend=-1) | np.diff(day, prepend=-1))
        users, day = users[first], day[first]
        # From these many days on, this active day is the next one: no pair comes twice.
        ahead = np.full(len(users), days)
        again = np.flatnonzero(np.diff(users, prepend=-1) == 0)
        ahead[again] = np.minimum(day[again] - day[again - 1], days)
        begin = np.cumsum(ahead) - ahead
        self.users = np.repeat(users, ahead)
        self.days = np.repeat(day + begin, ahead) - np.arange(ahead.sum())
        first_day = day.min() if len(day) else 0
        inside = self.days >= first_day  # before the first event nothing is known of anybody
        self.users, self.days = self.users[inside], self.days[inside]
        weight = 1 / np.bincount(self.days - first_day)[self.days - first_day]
        if half_life_days is not None:
            weight = weight * 2.0 ** ((self.days - self.days.max(initial=first_day)) / half_life_days)
        self._steps = np.cumsum(weight)

    def draw(self, count: int, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """(m,) user rows and (m,) microseconds within the drawn days."""
        if len(self._steps) == 0:
            return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)
        rows = np.searchsorted(self._steps, generator.random(count) * self._steps[-1], side="right")
        rows = np.minimum(rows, len(self._steps) - 1)
        return self.users[rows], self.days[rows] * DAY + generator.integers(0, DAY, size=count)
