"""Confidence intervals by the cluster bootstrap: users are resampled, with all their cases.

Cases of one user are alike, so resampling cases would call a handful of heavy users a large sample. A mean
over cases is a ratio of two sums over users (metric, count); a resample draws as many users as there are,
with replacement, and takes the ratio of the drawn sums (Field and Welsh 2007, the "randomized cluster
bootstrap"; percentile intervals, Efron and Tibshirani 1993, chapter 13).

Shapes: C cases, U users, M means measured together, R resamples.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.stats import binomtest

LEVEL = 0.95
BLOCK = 8_000_000  # weights held at a time (64 MB), so that a million users fit


class Intervals(NamedTuple):
    """Each (M,). NaN mean: no case is defined. NaN bounds: fewer than two users, which no bootstrap can
    judge."""

    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray


@dataclass(frozen=True)
class Totals:
    """Numerators and denominators, (U, M) each: all that a mean and its resamples need."""

    sums: np.ndarray
    counts: np.ndarray

    @classmethod
    def of(cls, values: np.ndarray, user: np.ndarray, num_users: int) -> Totals:
        """Sum (C, M) values by their user's row, (C,) in [0, U); a NaN value is undefined and counts
        nowhere."""
        defined = ~np.isnan(values)
        return cls(_sum_by(np.where(defined, values, 0.0), user, num_users), _sum_by(defined, user, num_users))

    def by_user(self) -> Totals:
        """Of the mean of users' means: each user counts once, however many cases are theirs."""
        means = np.divide(self.sums, self.counts, out=np.zeros_like(self.sums), where=self.counts > 0)
        return Totals(means, (self.counts > 0).astype(float))

    def beside(self, other: Totals) -> Totals:
        """The M columns of both, to be resampled together."""
        return Totals(np.hstack([self.sums, other.sums]), np.hstack([self.counts, other.counts]))


@dataclass(frozen=True)
class Difference:
    """Paired difference of two means, with its interval, absolute and relative to the second mean."""

    difference: float
    low: float
    high: float
    relative: float
    relative_low: float
    relative_high: float


def weights(num_users: int, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """Blocks (r, U) of how often each user is drawn; the r add up to R and each row to U.

    The same (U, R, seed) gives the same draws: two models measured on the same users share their resamples.
    """
    rng = np.random.default_rng(seed)
    rows = max(1, BLOCK // max(num_users, 1))
    for start in range(0, resamples, rows):
        r = min(rows, resamples - start)
        drawn = rng.integers(0, num_users, size=(r, num_users)) + np.arange(r)[:, None] * num_users
        yield np.bincount(drawn.ravel(), minlength=r * num_users).reshape(r, num_users).astype(float)


def intervals(totals: Totals, seed: int, resamples: int, level: float = LEVEL) -> Intervals:
    """Mean and percentile interval of each column.

    A resample that draws no user of a small slice has no mean of it and is left out of that column.
    """
    num_users = len(totals.sums)
    blocks = weights(num_users, resamples, seed) if num_users else ()
    draws = [_ratio(block @ totals.sums, block @ totals.counts) for block in blocks]
    mean = _ratio(totals.sums.sum(axis=0), totals.counts.sum(axis=0))
    low, high = bounds(np.concatenate(draws) if draws else np.full((1, len(mean)), np.nan), level)
    judged = (totals.counts > 0).sum(axis=0) >= 2
    return Intervals(mean, np.where(judged, low, np.nan), np.where(judged, high, np.nan))


def bounds(draws: np.ndarray, level: float = LEVEL) -> tuple[np.ndarray, np.ndarray]:
    """The (1 - level) / 2 quantile and its mirror of (R, M) draws, each (M,); NaN draws are left out."""
    tails = [(1 - level) / 2, (1 + level) / 2]
    quantiles = np.quantile(draws, tails, axis=0)
    for column in np.flatnonzero(np.isnan(draws).any(axis=0)):  # nanquantile is slow; few columns need it
        defined = draws[~np.isnan(draws[:, column]), column]
        quantiles[:, column] = np.quantile(defined, tails) if len(defined) else np.nan
    return quantiles[0], quantiles[1]


def paired(
    model: np.ndarray, against: np.ndarray, user: np.ndarray, seed: int, resamples: int, level: float = LEVEL
) -> Difference:
    """Mean of (C,) model - against, the same cases in the same order, resampled by (C,) user.

    `relative` is the difference over the mean of `against`, each resample taking its own; NaN where that mean
    is 0.
    """
    if not len(model) == len(against) == len(user):
        raise ValueError(f"paired cases differ in number: {len(model)}, {len(against)}, users of {len(user)}")
    names, row = np.unique(user, return_inverse=True)
    both = Totals.of(np.stack([model - against, against], axis=1), row, len(names))
    gain, base = both.sums[:, 0], both.sums[:, 1]
    columns = Totals(np.stack([gain, gain], axis=1), np.stack([both.counts[:, 0], base], axis=1))
    found = intervals(columns, seed, resamples, level)
    return Difference(*(float(x[0]) for x in found), *(float(x[1]) for x in found))


def _ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    return np.divide(numerator, denominator, out=np.full(numerator.shape, np.nan), where=denominator > 0)


def _sum_by(values: np.ndarray, row: np.ndarray, num_rows: int) -> np.ndarray:
    out = np.zeros((num_rows, values.shape[1]))
    for column in range(values.shape[1]):
        out[:, column] = np.bincount(row, weights=values[:, column], minlength=num_rows)
    return out


def interval(hits: int, trials: int) -> tuple[float, float]:
    """95% interval of the share (Wilson 1927); of no trials everything."""
    if not trials:
        return 0.0, 1.0
    found = binomtest(hits, trials).proportion_ci(method="wilson")
    return float(found.low), float(found.high)
