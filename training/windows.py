"""Histories to training windows: rows of at most `max_history` events, and the questions asked on them.

A question is (user, moment); what it may see is the longest prefix of the user's events all of which had
happened and were known before that moment, so events of one time never see one another.

Legend: U users, E events, Q questions, R rows, P targets.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from data.columns import DAY
from features.sequences import Log
from features.vocabulary import PAD


@dataclass
class Questions:
    """Moments of users, and the events each should have foretold."""

    user: np.ndarray  # (Q,) user rows
    time: np.ndarray  # (Q,) microseconds
    visible: np.ndarray  # (Q,) how many of the user's events may be seen
    context: np.ndarray  # (Q, K) request context rows
    first: np.ndarray  # (Q,) event row of the first target
    stop: np.ndarray  # (Q,) event row after the last target
    stale: np.ndarray  # (Q,) bool: asked ahead of time, for all that a window of days will bring

    def __len__(self) -> int:
        return len(self.user)

    def take(self, rows: np.ndarray) -> Questions:
        return Questions(**{name: value[rows] for name, value in vars(self).items()})

    def joined(self, other: Questions) -> Questions:
        return Questions(**{name: np.concatenate([value, vars(other)[name]]) for name, value in vars(self).items()})


class Timeline:
    """The events before a cut, ready for questions. Rows of items that the vocabulary lacks are dropped."""

    def __init__(self, log: Log) -> None:
        kept = log.items != PAD
        counts = np.bincount(log.users[kept], minlength=len(log.offsets) - 1)
        self.offsets = np.concatenate([[0], np.cumsum(counts)])
        self.users = log.users[kept]
        self.items, self.times, self.context = log.items[kept], log.times[kept], log.context[kept]
        self.traits = log.traits
        self.fresh = _first_of_pair(self.users, self.items)  # only these are ranked, so only these are targets
        self.first_time = np.full(len(counts), np.iinfo(np.int64).max)
        np.minimum.at(self.first_time, self.users, self.times)
        self._starts = np.flatnonzero(np.diff(self.users, prepend=-1) | np.diff(self.times, prepend=-1))
        enter = self._together(np.maximum(self.times + 1, log.known[kept]))
        self._instants = np.unique(enter)
        self._step = len(self._instants) + 1
        keys = self.users * self._step + np.searchsorted(self._instants, enter)
        self._enter = np.maximum.accumulate(keys)  # a late event hides what follows it until it is known

    def _together(self, enter: np.ndarray) -> np.ndarray:
        """Events of one user and time become visible at one moment, the last of theirs."""
        if len(enter) == 0:
            return enter
        return np.repeat(np.maximum.reduceat(enter, self._starts), np.diff(np.append(self._starts, len(enter))))

    def __len__(self) -> int:
        return len(self.items)

    def visible(self, user: np.ndarray, time_us: np.ndarray) -> np.ndarray:
        """(n,) how many events of each user may be seen at a moment."""
        keys = user * self._step + np.searchsorted(self._instants, time_us, side="right")
        return np.searchsorted(self._enter, keys, side="left") - self.offsets[user]

    def next_item_questions(self) -> Questions:
        """One question per user and distinct event time; its targets are the events of that time."""
        starts = self._starts
        user, time = self.users[starts], self.times[starts]
        stop = np.append(starts[1:], len(self))
        visible = self.visible(user, time)
        return Questions(user, time, visible, self.context[starts], starts, stop, np.zeros(len(starts), dtype=bool))

    def horizon_questions(self, user: np.ndarray, time: np.ndarray, days: int) -> Questions:
        """One question per given user and moment; the targets are all events of `days` from there."""
        first, stop = self._rank(user, time), self._rank(user, time + days * DAY)
        context = np.zeros((len(user), self.context.shape[1]), dtype=np.int64)  # nobody has asked yet
        return Questions(user, time, self.visible(user, time), context, first, stop, np.ones(len(user), dtype=bool))

    def _rank(self, user: np.ndarray, time_us: np.ndarray) -> np.ndarray:
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
    """Which events of which user each row of a training batch holds."""

    begin: np.ndarray  # (R,) event row of the first event
    length: np.ndarray  # (R,)
    of_question: np.ndarray  # (Q,) the row that answers each question, -1 for none
    position: np.ndarray  # (Q,) how many events of that row the question sees


def cut_rows(timeline: Timeline, questions: Questions, max_history: int, generator: np.random.Generator) -> Rows:
    """Cut long histories into overlapping rows, at places that change with the generator.

    Every question is put to the one row in which it sees at least a quarter of `max_history` events (or
    all that the user has).
    """
    warm = max_history // 4
    stride = max_history - warm
    lengths = np.diff(timeline.offsets)
    shift = np.where(lengths > max_history, generator.integers(0, stride, size=len(lengths)), 0)
    count = np.maximum(1, -(-(lengths + shift - warm) // stride))
    base = np.concatenate([[0], np.cumsum(count)])
    owner = np.repeat(np.arange(len(lengths)), count)
    start = (np.arange(base[-1]) - base[owner]) * stride - shift[owner]
    stop = np.minimum(start + max_history, lengths[owner])
    start = np.maximum(start, 0)
    user = questions.user
    part = np.clip(-(-(questions.visible + shift[user] - warm) // stride) - 1, 0, count[user] - 1)
    row = base[user] + part
    return Rows(timeline.offsets[owner] + start, stop - start, row, questions.visible - start[row])


def _first_of_pair(users: np.ndarray, items: np.ndarray) -> np.ndarray:
    pairs = users * (int(items.max(initial=0)) + 1) + items
    first = np.zeros(len(pairs), dtype=bool)
    first[np.unique(pairs, return_index=True)[1]] = True
    return first


class AheadPool:
    """Every (user, day) such that the user acts within `days` of that day's beginning.

    At one moment `horizon` ranks for whoever acts soon, each user once. So a day is drawn first, then one of its
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
