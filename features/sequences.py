"""The histories of all users in one table, and the cases on which models are evaluated.

Legend: U users, E events, n cases, K context columns, F user traits.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

from data.columns import DAY
from features.encode import Batch, make_batch
from features.ragged import first_of_pairs, offsets_of, ranges, row_numbers
from features.trends import TrendLog, TrendSnapshot
from features.vocabulary import PAD


@dataclass
class InteractionLog:
    """Events grouped by user, in total order within each user.

    Items outside the vocabulary keep their place with row PAD; histories leave them out.
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
        return row_numbers(np.diff(self.offsets))

    def before(self, time_us: int) -> InteractionLog:
        """The events that happened and were known before a moment. Every user keeps its row."""
        kept = (self.times < time_us) & (self.known <= time_us)
        offsets = offsets_of(np.bincount(self.users[kept], minlength=len(self.offsets) - 1))
        return InteractionLog(
            offsets, self.items[kept], self.times[kept], self.known[kept], self.context[kept], self.traits
        )

    def save(self, path: Path) -> None:
        save_file({name: np.ascontiguousarray(value) for name, value in vars(self).items()}, path)

    @classmethod
    def load(cls, path: Path) -> InteractionLog:
        return cls(**load_file(path))


@dataclass
class EvaluationCases:
    """Moments at which the catalog is ranked for a user, and the items that the user then chose."""

    target: str  # horizon | next_item
    user: np.ndarray  # (n,) user rows
    time: np.ndarray  # (n,) microseconds
    end: np.ndarray  # (n,) the history is log[offsets[user]:end], strictly before `time`
    context: np.ndarray  # (n, K) request context rows
    event: np.ndarray  # (n,) the row of the log to predict, which provides the context; -1 for `horizon`
    truth: np.ndarray  # item rows of all cases one after the other
    truth_offsets: np.ndarray  # (n + 1,)

    def __len__(self) -> int:
        return len(self.user)

    def take(self, rows: np.ndarray) -> EvaluationCases:
        """The cases of the given rows, in that order."""
        lengths = np.diff(self.truth_offsets)[rows]
        return EvaluationCases(
            self.target,
            self.user[rows],
            self.time[rows],
            self.end[rows],
            self.context[rows],
            self.event[rows],
            self.truth[ranges(self.truth_offsets[rows], lengths)].astype(np.int64),
            offsets_of(lengths),
        )


def history_ends(log: InteractionLog, user: np.ndarray, time_us: np.ndarray) -> np.ndarray:
    """(n,) where each user's history strictly before a moment ends in the log."""
    instants = np.unique(log.times)
    step = len(instants) + 1
    keys = log.users * step + np.searchsorted(instants, log.times)
    return np.searchsorted(keys, user * step + np.searchsorted(instants, time_us, side="left"))


def next_item_cases(log: InteractionLog, start_us: int, stop_us: int) -> EvaluationCases:
    """One case per event in [start, stop) of an item in the vocabulary that is new to its user."""
    rows = np.flatnonzero((log.times >= start_us) & (log.times < stop_us) & _is_new(log))
    user = log.users[rows]
    end = history_ends(log, user, log.times[rows])
    offsets = np.arange(len(rows) + 1)
    return EvaluationCases("next_item", user, log.times[rows], end, log.context[rows], rows, log.items[rows], offsets)


def horizon_cases(log: InteractionLog, start_us: int, days: int, until_us: int) -> EvaluationCases:
    """One case per user who acts within `days` after `start`: the distinct new items of those days.

    The evaluation period ends at `until_us`, if that is sooner: validation must not look at the test period.
    """
    stop = min(start_us + days * DAY, until_us)
    rows = np.flatnonzero((log.times >= start_us) & (log.times < stop) & _is_new(log))
    user, counts = np.unique(log.users[rows], return_counts=True)
    time = np.full(len(user), start_us, dtype=np.int64)
    context = np.zeros((len(user), log.context.shape[1]), dtype=np.int64)  # there is no request yet
    no_event = np.full(len(user), -1, dtype=np.int64)
    end = history_ends(log, user, time)
    return EvaluationCases("horizon", user, time, end, context, no_event, log.items[rows], offsets_of(counts))


def _is_new(log: InteractionLog) -> np.ndarray:
    """(E,) bool: the item is in the vocabulary and this is the user's first event with it."""
    return first_of_pairs(log.users, log.items) & (log.items != PAD)


def batches(
    log: InteractionLog,
    cases: EvaluationCases,
    trends: TrendLog | TrendSnapshot,
    channels: tuple[str, ...],
    moments: np.ndarray,
    batch_size: int,
    max_history: int | None,
) -> Iterator[tuple[np.ndarray, Batch]]:
    """Yield (rows of the cases, Batch), in time order so that consecutive cases share their trends.

    The (n,) `moments` are the times of the trends that each case sees.
    """
    order = np.argsort(moments, kind="stable")
    for begin in range(0, len(order), batch_size):
        rows = order[begin : begin + batch_size]
        yield rows, encode_cases(log, cases, rows, trends, channels, moments[rows], max_history)


def encode_cases(
    log: InteractionLog,
    cases: EvaluationCases,
    rows: np.ndarray,
    trends: TrendLog | TrendSnapshot,
    channels: tuple[str, ...],
    moments: np.ndarray,
    max_history: int | None,
) -> Batch:
    """One Batch of the given cases; see `batches`."""
    user, time = cases.user[rows], cases.time[rows]
    start = log.offsets[user]
    lengths = cases.end[rows] - start
    source, owner = ranges(start, lengths), row_numbers(lengths)
    kept = (log.items[source] != PAD) & (log.known[source] <= time[owner])
    source, lengths = source[kept], np.bincount(owner[kept], minlength=len(rows))
    # A user's traits are learned at the first event, so they are unknown before it.
    first_time = log.times[np.minimum(start, max(len(log.times) - 1, 0))]
    traits = np.where((first_time <= time)[:, None], log.traits[user], 0)
    distinct, moment = np.unique(moments, return_inverse=True)
    return make_batch(
        log.items[source],
        log.times[source],
        lengths,
        time,
        traits,
        cases.context[rows],
        trends.at(distinct, channels),
        moment,
        max_history,
    )
