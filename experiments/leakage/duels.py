"""Duels: the item of a case against that of a later one, and how each feature scores the two as of the earlier case.

Legend: n cases in the order of their time, D duels, N item rows, C channels, E events.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_array

from features.encode import Batch
from features.sequences import Cases, Log, batches
from features.store import Features
from features.vocabulary import PAD
from training import validate

HELD = 1e6  # what it counts more that a history holds the item itself
ENCODED_AT_ONCE = 32
PRIOR = 5  # events that an item is thought to have had beside those counted, so that a rare one says little


@dataclass(frozen=True)
class Duels:
    """Cases two by two: which case is asked, and the items of it and of the later one."""

    case: np.ndarray  # (D,)
    own: np.ndarray  # (D,) item rows
    other: np.ndarray  # (D,) item rows

    def items(self) -> np.ndarray:
        """(D, 2)"""
        return np.stack([self.own, self.other], axis=1)


def read(features: Features, cases: Cases) -> tuple[np.ndarray, np.ndarray]:
    """(n,) the newest item of each history, and the sorted keys (case * N + item) of all that they hold."""
    newest, seen = np.zeros(len(cases), dtype=np.int64), [np.empty(0, dtype=np.int64)]
    for rows, batch in _batches(features, cases, ()):
        newest[rows] = batch.items[:, -1].numpy()
        row, item = batch.seen.numpy()
        seen.append(rows[row] * len(features.vocabulary) + item)
    return newest, np.unique(np.concatenate(seen))


def _batches(features: Features, cases: Cases, channels: tuple[str, ...]) -> Iterator[tuple[np.ndarray, Batch]]:
    refreshed = validate.moments(cases, features.description["refresh_minutes"])
    return batches(features.log, cases, features.trend_log(), channels, refreshed, ENCODED_AT_ONCE, None)


def drawn(cases: Cases, seen: np.ndarray, num_items: int, generator: np.random.Generator) -> Duels:
    """Each case at most once, so that duels are independent; the pairs whose items neither history holds."""
    pairs = generator.permutation(len(cases) // 2 * 2).reshape(-1, 2)
    first, second = np.sort(pairs, axis=1).T  # cases are in the order of time
    own, other = cases.truth[first], cases.truth[second]
    fair = (own != other) & (cases.user[first] != cases.user[second])
    fair &= ~np.isin(first * num_items + other, seen) & ~np.isin(second * num_items + own, seen)
    return Duels(first[fair], own[fair], other[fair])


def trend_scores(features: Features, cases: Cases, duels: Duels) -> dict[str, np.ndarray]:
    """Trend -> (D, 2) its values of both items as of the earlier case."""
    channels = tuple(features.description["channels"])
    values = np.zeros((len(duels.case), 2, len(channels)))
    for rows, batch in _batches(features, cases.take(duels.case), channels):
        values[rows] = batch.trends[batch.moment[:, None], duels.items()[rows]].numpy()
    return {f"trend {channel}": values[:, :, column] for column, channel in enumerate(channels)}


def history_scores(features: Features, newest: np.ndarray, seen: np.ndarray, duels: Duels) -> np.ndarray:
    """(D, 2) how often each item came right after the newest one of the history, before the cut."""
    size = len(features.vocabulary)
    followed = transitions(features.past, size)
    items = duels.items()
    counted = np.asarray(followed[newest[duels.case][:, None].repeat(2, axis=1).ravel(), items.ravel()])
    return counted.reshape(items.shape) + HELD * np.isin(duels.case[:, None] * size + items, seen)


def transitions(past: Log, num_items: int) -> csr_array:
    """(N, N) how often one item came next after another of an earlier time: a first-order Markov chain, counted."""
    users, times, items = past.users, past.times, past.items
    step = (users[1:] == users[:-1]) & (times[1:] > times[:-1]) & (items[1:] != PAD) & (items[:-1] != PAD)
    pairs = items[:-1][step], items[1:][step]
    return csr_array((np.ones(step.sum()), pairs), shape=(num_items, num_items))


def stated_scores(features: Features, cases: Cases, duels: Duels) -> dict[str, np.ndarray]:
    """Column -> (D, 2) how much likelier each item is where the column reads as it does, counted before the cut."""
    past, encoders = features.past, features.description["encoders"]
    kinds = (
        ("context", past.context, cases.context),
        ("traits", past.traits[past.users], features.log.traits[cases.user]),
    )
    return {
        f"{kind} {encoder['column']}": _lift(past.items, learned[:, column], asked[duels.case, column], duels, features)
        for kind, learned, asked in kinds
        for column, encoder in enumerate(encoders[kind])
    }


def _lift(items: np.ndarray, learned: np.ndarray, asked: np.ndarray, duels: Duels, features: Features) -> np.ndarray:
    """(D, 2) share of an item's events at which the column read as it does now; 0 where it reads as unknown."""
    size, values = len(features.vocabulary), int(max(learned.max(initial=0), asked.max(initial=0))) + 1
    together = np.bincount(learned * size + items, minlength=values * size)
    counts, pairs = np.bincount(items, minlength=size), duels.items()
    return (asked[:, None] != 0) * together[asked[:, None] * size + pairs] / (counts[pairs] + PRIOR)
