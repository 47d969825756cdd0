"""The events before a cut as training cases: at a moment of a user, what may be seen and what should be predicted.

A case may see the longest prefix of the user's events that had all happened and were all known before its moment, so
events that share a time never see one another.

Legend: U users, E events, Q cases, R rows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from data.columns import DAY
from features.ragged import first_of_pairs, offsets_of, row_numbers
from features.sequences import InteractionLog
from features.vocabulary import PAD


@dataclass
class TrainingCases:
    """Moments of users, and the events that should be predicted at each."""

    user: np.ndarray  # (Q,) user rows
    time: np.ndarray  # (Q,) microseconds
    visible: np.ndarray  # (Q,) how many of the user's events may be seen
    context: np.ndarray  # (Q, K) request context rows
    first: np.ndarray  # (Q,) event row of the first target
    stop: np.ndarray  # (Q,) event row after the last target
    is_horizon: np.ndarray  # (Q,) bool: a `horizon` case, about the coming days; else a `next_item` case

    def __len__(self) -> int:
        return len(self.user)

    def take(self, rows: np.ndarray) -> TrainingCases:
        return TrainingCases(**{name: value[rows] for name, value in vars(self).items()})

    def joined(self, other: TrainingCases) -> TrainingCases:
        return TrainingCases(**{name: np.concatenate([value, vars(other)[name]]) for name, value in vars(self).items()})


class Timeline:
    """The events before a cut, by user and time. Events of items that the vocabulary lacks are dropped."""

    def __init__(self, log: InteractionLog) -> None:
        kept = log.items != PAD
        counts = np.bincount(log.users[kept], minlength=len(log.offsets) - 1)
        self.offsets = offsets_of(counts)
        self.users = log.users[kept]
        self.items, self.times, self.context = log.items[kept], log.times[kept], log.context[kept]
        self.traits = log.traits
        self.first_of_pair = first_of_pairs(self.users, self.items)  # seen items are not ranked, so these are targets
        self.first_time = np.full(len(counts), np.iinfo(np.int64).max)
        np.minimum.at(self.first_time, self.users, self.times)
        self._starts = np.flatnonzero(np.diff(self.users, prepend=-1) | np.diff(self.times, prepend=-1))
        visible_from = np.maximum(self.times + 1, log.known[kept])
        if len(visible_from):  # events of one user and time become visible together, when the last of them does
            latest = np.maximum.reduceat(visible_from, self._starts)
            visible_from = np.repeat(latest, np.diff(np.append(self._starts, len(visible_from))))
        self._instants = np.unique(visible_from)
        self._step = len(self._instants) + 1
        keys = self.users * self._step + np.searchsorted(self._instants, visible_from)
        self._visible_keys = np.maximum.accumulate(keys)  # a late event hides those after it until it is known

    def __len__(self) -> int:
        return len(self.items)

    def visible(self, user: np.ndarray, time_us: np.ndarray) -> np.ndarray:
        """(n,) how many events of each user may be seen at a moment."""
        keys = user * self._step + np.searchsorted(self._instants, time_us, side="right")
        return np.searchsorted(self._visible_keys, keys, side="left") - self.offsets[user]

    def next_item_cases(self) -> TrainingCases:
        """One case per user and distinct event time; its targets are the events of that time."""
        starts = self._starts
        user, time = self.users[starts], self.times[starts]
        stop = np.append(starts[1:], len(self))
        is_horizon = np.zeros(len(starts), dtype=bool)
        return TrainingCases(user, time, self.visible(user, time), self.context[starts], starts, stop, is_horizon)

    def horizon_cases(self, user: np.ndarray, time: np.ndarray, days: int) -> TrainingCases:
        """One case per given user and moment; the targets are all events of the following `days`."""
        first, stop = self._first_event(user, time), self._first_event(user, time + days * DAY)
        context = np.zeros((len(user), self.context.shape[1]), dtype=np.int64)  # there is no request yet
        is_horizon = np.ones(len(user), dtype=bool)
        return TrainingCases(user, time, self.visible(user, time), context, first, stop, is_horizon)

    def _first_event(self, user: np.ndarray, time_us: np.ndarray) -> np.ndarray:
        """(n,) event row of each user's first event at or after a moment."""
        instants = np.unique(self.times)
        step = len(instants) + 1
        keys = self.users * step + np.searchsorted(instants, self.times)
        return np.searchsorted(keys, user * step + np.searchsorted(instants, time_us, side="left"))

    def shuffled_ties(self, generator: np.random.Generator) -> np.ndarray:
        """(E,) event rows in time order within each user, events of one time in random order."""
        return np.lexsort([generator.random(len(self)), self.times, self.users])


@dataclass
class Rows:
    """The events that each row of a training batch holds, and the cases on it."""

    begin: np.ndarray  # (R,) event row of the first event
    length: np.ndarray  # (R,)
    of_case: np.ndarray  # (Q,) the row that each case reads
    position: np.ndarray  # (Q,) how many events of that row the case sees


def cut_rows(timeline: Timeline, cases: TrainingCases, max_history: int, generator: np.random.Generator) -> Rows:
    """Cut long histories into overlapping rows, at places that change with the generator.

    Every case reads the one row in which it sees at least a quarter of `max_history` events (or all that the user has).
    """
    overlap = max_history // 4
    stride = max_history - overlap
    lengths = np.diff(timeline.offsets)
    shift = np.where(lengths > max_history, generator.integers(0, stride, size=len(lengths)), 0)
    count = np.maximum(1, -(-(lengths + shift - overlap) // stride))
    base, owner = offsets_of(count), row_numbers(count)
    start = (np.arange(base[-1]) - base[owner]) * stride - shift[owner]
    stop = np.minimum(start + max_history, lengths[owner])
    start = np.maximum(start, 0)
    user = cases.user
    part = np.clip(-(-(cases.visible + shift[user] - overlap) // stride) - 1, 0, count[user] - 1)
    row = base[user] + part
    return Rows(timeline.offsets[owner] + start, stop - start, row, cases.visible - start[row])


class HorizonTargetSampler:
    """Draws (user, day) such that the user acts within `days` of the start of that day.

    The target `horizon` ranks at one moment for everybody who acts soon, each user once. So a day is drawn first, then
    one of its users. Drawn by user or by event instead, the crowd of a platform's first weeks, or whoever acts all the
    time, would decide what a model learns of everybody else.

    Args:
        users: (E,) user rows, ascending; `times` (E,) microseconds, ascending within each user.
        half_life_days: a day that is this much older is drawn half as often; None draws all days alike.
    """

    def __init__(self, users: np.ndarray, times: np.ndarray, days: int, half_life_days: float | None) -> None:
        day = times // DAY
        first = np.flatnonzero(np.diff(users, prepend=-1) | np.diff(day, prepend=-1))
        users, day = users[first], day[first]
        # On so many days before it, this active day is the next one: no pair is counted twice.
        days_ahead = np.full(len(users), days)
        again = np.flatnonzero(np.diff(users, prepend=-1) == 0)
        days_ahead[again] = np.minimum(day[again] - day[again - 1], days)
        begin = np.cumsum(days_ahead) - days_ahead
        self.users = np.repeat(users, days_ahead)
        self.days = np.repeat(day + begin, days_ahead) - np.arange(days_ahead.sum())
        first_day = day.min() if len(day) else 0
        inside = self.days >= first_day  # before the first event nothing is known of anybody
        self.users, self.days = self.users[inside], self.days[inside]
        weight = 1 / np.bincount(self.days - first_day)[self.days - first_day]
        if half_life_days is not None:
            weight = weight * 2.0 ** ((self.days - self.days.max(initial=first_day)) / half_life_days)
        self._cumulative = np.cumsum(weight)

    def draw(self, count: int, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """(m,) user rows and (m,) microseconds within the drawn days; none where there are no events."""
        if len(self._cumulative) == 0:
            return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)
        rows = np.searchsorted(self._cumulative, generator.random(count) * self._cumulative[-1], side="right")
        rows = np.minimum(rows, len(self._cumulative) - 1)
        return self.users[rows], self.days[rows] * DAY + generator.integers(0, DAY, size=count)
