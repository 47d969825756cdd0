"""Histories of all users in one table, and the moments at which a model is judged.

Legend: U users, E events, n cases.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

from data.columns import DAY
from features.encode import Batch, assemble
from features.trends import TrendLog, TrendSnapshot
from features.vocabulary import PAD


@dataclass
class Log:
    """Events grouped by user, in total order within each user.

    Items that the vocabulary does not hold keep their place with row PAD; histories leave them out.
    """

    offsets: np.ndarray  # (U + 1,) int64: user u's events are [offsets[u], offsets[u + 1])
    items: np.ndarray  # (E,) int64 item rows
    times: np.ndarray  # (E,) int64 microseconds
    known: np.ndarray  # (E,) int64 microseconds
    context: np.ndarray  # (E, K) int64 context rows
    traits: np.ndarray  # (U, F) int64 trait rows

    @property
    def users(self) -> np.ndarray:
        """(E,) the user row of each event."""
        return np.repeat(np.arange(len(self.offsets) - 1), np.diff(self.offsets))

    def before(self, time_us: int) -> Log:
        """The events that happened and were known before a moment; every user keeps its row."""
        kept = (self.times < time_us) & (self.known <= time_us)
        counts = np.bincount(self.users[kept], minlength=len(self.offsets) - 1)
        offsets = np.concatenate([[0], np.cumsum(counts)])
        return Log(offsets, self.items[kept], self.times[kept], self.known[kept], self.context[kept], self.traits)

    def save(self, path: Path) -> None:
        save_file({name: np.ascontiguousarray(value) for name, value in vars(self).items()}, path)

    @classmethod
    def load(cls, path: Path) -> Log:
        return cls(**load_file(path))


@dataclass
class EvaluationCases:
    """Moments at which the catalogue is ranked for a user, and what the user then took."""

    target: str  # horizon | next_item
    user: np.ndarray  # (n,) user rows
    time: np.ndarray  # (n,) microseconds
    end: np.ndarray  # (n,) the history is log[offsets[user]:end], strictly before `time`
    context: np.ndarray  # (n, K) request context rows
    event: np.ndarray  # (n,) row of the log that is asked about, whose context the request states; -1 for `horizon`
    truth: np.ndarray  # item rows of all cases one after the other
    truth_offsets: np.ndarray  # (n + 1,)

    def __len__(self) -> int:
        return len(self.user)

    def take(self, rows: np.ndarray) -> EvaluationCases:
        """The cases of the given rows, in that order."""
        lengths = np.diff(self.truth_offsets)[rows]
        truth = [self.truth[self.truth_offsets[row] : self.truth_offsets[row + 1]] for row in rows]
        return EvaluationCases(
            self.target, self.user[rows], self.time[rows], self.end[rows], self.context[rows], self.event[rows],
            np.concatenate([*truth, np.empty(0, dtype=np.int64)]).astype(np.int64),
            np.concatenate([[0], np.cumsum(lengths)]),
        )  # fmt: skip


def history_ends(log: Log, user: np.ndarray, time_us: np.ndarray) -> np.ndarray:
    """(n,) where each user's history strictly before a moment ends in the log."""
    instants = np.unique(log.times)
    step = len(instants) + 1
    keys = log.users * step + np.searchsorted(instants, log.times)
    return np.searchsorted(keys, user * step + np.searchsorted(instants, time_us, side="left"))


def next_item_cases(log: Log, start_us: int, stop_us: int) -> EvaluationCases:
    """One case per event in [start, stop) of an item in the vocabulary that is new to its user."""
    rows = np.flatnonzero((log.times >= start_us) & (log.times < stop_us) & _new(log))
    user = log.users[rows]
    end = history_ends(log, user, log.times[rows])
    offsets = np.arange(len(rows) + 1)
    return EvaluationCases("next_item", user, log.times[rows], end, log.context[rows], rows, log.items[rows], offsets)


def horizon_cases(log: Log, start_us: int, days: int, until_us: int) -> EvaluationCases:
    """One case per user who acts within `days` after `start`: the distinct new items of those days.

    Args:
        until_us: where the period ends that may be looked at, if that is sooner: validation must not see the test.
    """
    stop = min(start_us + days * DAY, until_us)
    rows = np.flatnonzero((log.times >= start_us) & (log.times < stop) & _new(log))
    user, counts = np.unique(log.users[rows], return_counts=True)
    time = np.full(len(user), start_us, dtype=np.int64)
    context = np.zeros((len(user), log.context.shape[1]), dtype=np.int64)  # nobody has asked yet
    nothing = np.full(len(user), -1, dtype=np.int64)
    offsets = np.concatenate([[0], np.cumsum(counts)])
    return EvaluationCases(
        "horizon", user, time, history_ends(log, user, time), context, nothing, log.items[rows], offsets
    )


def _new(log: Log) -> np.ndarray:
    """(E,) bool: the item is in the vocabulary and this is the user's first event with it."""
    pairs = log.users * (int(log.items.max(initial=0)) + 1) + log.items
    first = np.zeros(len(pairs), dtype=bool)
    first[np.unique(pairs, return_index=True)[1]] = True
    return first & (log.items != PAD)


def batches(
    log: Log,
    cases: EvaluationCases,
    trends: TrendLog | TrendSnapshot,
    channels: tuple[str, ...],
    moments: np.ndarray,
    size: int,
    max_history: int | None,
) -> Iterator[tuple[np.ndarray, Batch]]:
    """Cases as batches, in time order so that neighbours share their trends.

    Args:
        moments: (n,) the moment whose trends each case sees.

    Yields:
        (rows of the cases, Batch).
    """
    order = np.argsort(moments, kind="stable")
    first_time = log.times[np.minimum(log.offsets[:-1], max(len(log.times) - 1, 0))]
    for begin in range(0, len(order), size):
        rows = order[begin : begin + size]
        yield rows, encode_cases(log, cases, rows, first_time, trends, channels, moments[rows], max_history)


def encode_cases(log, cases, rows, first_time, trends, channels, moments, max_history) -> Batch:
    """One Batch of the given cases; see `batches`."""
    user, time = cases.user[rows], cases.time[rows]
    start = log.offsets[user]
    lengths = cases.end[rows] - start
    source = np.repeat(start - np.concatenate([[0], np.cumsum(lengths)[:-1]]), lengths)
    source = source + np.arange(lengths.sum())
    owner = np.repeat(np.arange(len(rows)), lengths)
    kept = (log.items[source] != PAD) & (log.known[source] <= time[owner])
    source, lengths = source[kept], np.bincount(owner[kept], minlength=len(rows))
    # A user's traits are learned at the first event, so nobody knows them before it.
    traits = np.where((first_time[user] <= time)[:, None], log.traits[user], 0)
    distinct, moment = np.unique(moments, return_inverse=True)
    return assemble(
        log.items[source], log.times[source], lengths, time, traits, cases.context[rows],
        trends.at(distinct, channels), moment, max_history,
    )  # fmt: skip
