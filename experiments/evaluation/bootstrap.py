"""Confidence intervals and paired differences by a bootstrap over users.

The cases of one user are alike, so resampling single cases would understate the uncertainty. A resample draws as many
users as there are, with replacement, and keeps all cases of each. A mean over cases is then a ratio of two sums over
users (Field and Welsh 2007, "randomized cluster bootstrap"). Intervals are percentile intervals (Efron and Tibshirani
1993, chapter 13).

Shapes: C cases, U users, M columns (metrics, or parts of the cases), R resamples.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy.special import ndtri, stdtr
from scipy.stats import binomtest

LEVEL = 0.95
MAX_WEIGHTS = 8_000_000  # held at a time (64 MB), so that a million users fit
ALL_CASES = "all"  # the part that holds every case


class Intervals(NamedTuple):
    """Mean and bounds, (M,) each. The mean is NaN without defined cases, a bound is NaN with fewer than two users."""

    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray


@dataclass(frozen=True)
class UserTotals:
    """Sums of values and numbers of cases per user, (U, M) each: all that a mean and its resamples need."""

    sums: np.ndarray
    counts: np.ndarray

    @classmethod
    def from_cases(cls, values: np.ndarray, user: np.ndarray, num_users: int) -> UserTotals:
        """Sum (C, M) values by user row, (C,) in [0, U). NaN values are undefined and are left out."""
        defined = ~np.isnan(values)
        return cls(_sum_by(np.where(defined, values, 0.0), user, num_users), _sum_by(defined, user, num_users))

    def averaged_by_user(self) -> UserTotals:
        """Totals whose mean is the mean of user means: each user counts once, with any number of cases."""
        means = np.divide(self.sums, self.counts, out=np.zeros_like(self.sums), where=self.counts > 0)
        return UserTotals(means, (self.counts > 0).astype(float))

    def join(self, other: UserTotals) -> UserTotals:
        """The columns of both, so that they are resampled together."""
        return UserTotals(np.hstack([self.sums, other.sums]), np.hstack([self.counts, other.counts]))


def resample_weights(num_users: int, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """Yield blocks (r, U) that count how often each resample draws each user; each row sums to U, the r sum to R.

    The same arguments give the same draws, so models measured on the same users share their resamples.
    """
    rng = np.random.default_rng(seed)
    rows = max(1, MAX_WEIGHTS // max(num_users, 1))
    for start in range(0, resamples, rows):
        r = min(rows, resamples - start)
        drawn = rng.integers(0, num_users, size=(r, num_users)) + np.arange(r)[:, None] * num_users
        yield np.bincount(drawn.ravel(), minlength=r * num_users).reshape(r, num_users).astype(float)


def intervals(totals: UserTotals, seed: int, resamples: int, level: float = LEVEL) -> Intervals:
    """Mean and percentile interval of each column.

    A resample that draws no user of a small slice has no mean of it and is left out of that column.
    """
    num_users = len(totals.sums)
    blocks = resample_weights(num_users, resamples, seed) if num_users else ()
    draws = [_ratio(block @ totals.sums, block @ totals.counts) for block in blocks]
    mean = _ratio(totals.sums.sum(axis=0), totals.counts.sum(axis=0))
    low, high = percentile_bounds(np.concatenate(draws) if draws else np.full((1, len(mean)), np.nan), level)
    enough = (totals.counts > 0).sum(axis=0) >= 2
    return Intervals(mean, np.where(enough, low, np.nan), np.where(enough, high, np.nan))


def percentile_bounds(draws: np.ndarray, level: float = LEVEL) -> tuple[np.ndarray, np.ndarray]:
    """The lower and upper (1 - level) / 2 quantiles of (R, M) draws, (M,) each. NaN draws are left out."""
    low, high = pd.DataFrame(draws).quantile([(1 - level) / 2, (1 + level) / 2]).to_numpy()
    return low, high


def wilson_interval(hits: int, trials: int) -> tuple[float, float]:
    """95% interval of a share (Wilson 1927); (0, 1) without trials."""
    if not trials:
        return 0.0, 1.0
    bounds = binomtest(hits, trials).proportion_ci(method="wilson")
    return float(bounds.low), float(bounds.high)


def paired_differences(
    ours: np.ndarray,
    theirs: np.ndarray,
    user: np.ndarray,
    parts: Mapping[str, np.ndarray],
    margin: float,
    seed: int,
    resamples: int,
    level: float = LEVEL,
) -> dict[str, dict[str, Any]]:
    """Mean of ours - theirs over all cases and over each part of them, with the same resamples of users for all.

    Args:
        ours, theirs: (C,) metric of the same cases in the same order; higher is better.
        user: (C,) user of each case.
        parts: name -> (C,) bool. Empty parts are left out.
        margin: relative loss that still counts as no loss; used by `p_loss`.
        level: of the two-sided intervals.

    Returns:
        Part ("all" for all cases) -> {"users", "cases", "candidate", "against" (means), "difference", "low", "high",
        "spread", "relative", "relative_low", "relative_high", "relative_spread", "p_loss"}. `relative` is over the mean
        of theirs, where each resample takes its own. `spread` is the standard error. `p_loss` is the one-sided p-value
        of the hypothesis that no more than the margin is lost. Undefined values are None: bounds with fewer than two
        users, and whatever is relative to 0.

    Raises:
        ValueError: the inputs differ in length.
    """
    if not len(ours) == len(theirs) == len(user):
        raise ValueError(f"paired cases differ in number: {len(ours)}, {len(theirs)}, users of {len(user)}")
    masks = {ALL_CASES: np.ones(len(ours), bool)} | {name: mask for name, mask in parts.items() if mask.any()}
    names, row = np.unique(user, return_inverse=True)
    inside = np.stack(list(masks.values()), axis=1)
    gain, base = (
        UserTotals.from_cases(np.where(inside, values[:, None], np.nan), row, len(names))
        for values in (ours - theirs, theirs)
    )
    stacked = np.hstack([gain.sums, base.sums, gain.counts])  # (U, 3M)
    drawn = np.concatenate([block @ stacked for block in resample_weights(len(names), resamples, seed)])
    users = (gain.counts > 0).sum(axis=0)
    totals, resampled = np.split(stacked.sum(axis=0), 3), np.split(drawn, 3, axis=1)
    columns = _difference_columns(totals, resampled, users, margin, level)
    return {
        name: {"users": int(users[at]), "cases": int(totals[2][at])}
        | {key: json_number(values[at]) for key, values in columns.items()}
        for at, name in enumerate(masks)
    }


def _difference_columns(
    totals: Sequence[np.ndarray], resampled: Sequence[np.ndarray], users: np.ndarray, margin: float, level: float
) -> dict[str, np.ndarray]:
    """Key -> (M,). `totals` and `resampled` hold gain, base and count, (M,) and (R, M) each."""
    gain, base, count = totals
    slack = _ratio(resampled[0] + margin * resampled[1], resampled[2])
    columns = {
        "candidate": _ratio(gain + base, count),
        "against": _ratio(base, count),
        "p_loss": p_value_of_loss(_ratio(gain + margin * base, count), _standard_error(slack, users), users),
    }
    for name, prefix, under in (("difference", "", 2), ("relative", "relative_", 1)):
        draws = _ratio(resampled[0], resampled[under])
        low, high = (np.where(users >= 2, bound, np.nan) for bound in percentile_bounds(draws, level))
        columns |= {name: _ratio(gain, totals[under]), f"{prefix}low": low, f"{prefix}high": high}
        columns[f"{prefix}spread"] = _standard_error(draws, users)
    return columns


def _standard_error(draws: np.ndarray, users: np.ndarray) -> np.ndarray:
    """(M,) standard errors of (R, M) draws; NaN draws are left out."""
    variance = pd.DataFrame(draws).var(ddof=0).to_numpy()
    return np.where(users >= 2, np.sqrt(variance * users / np.maximum(users - 1, 1)), np.nan)


def p_value_of_loss(mean: np.ndarray, spread: np.ndarray, users: np.ndarray) -> np.ndarray:
    """(M,) one-sided p-values of the hypothesis that the true mean is at least 0: Student's t on the bootstrap's spread.

    Never below 2^-users, which is the least that a sign test on so many users can reach: five users alike show little.
    It is 1 with fewer than two users.
    """
    t = np.divide(mean, spread, out=np.where(mean < 0, -np.inf, np.inf), where=spread > 0)
    p = np.maximum(stdtr(np.maximum(users - 1, 1), t), 0.5 ** users.astype(float))
    return np.where(users >= 2, p, 1.0)


def holm(p: Sequence[float]) -> list[float]:
    """Adjust p-values as Holm (1979), in the order of the input: reject all below alpha, family-wise at alpha."""
    order = np.argsort(p, kind="stable")
    factors = len(p) - np.arange(len(p))
    adjusted = np.minimum(np.maximum.accumulate(np.asarray(p, float)[order] * factors), 1.0)
    return adjusted[np.argsort(order)].tolist()


def users_to_decide(difference: Mapping[str, Any], bar: float, alpha: float, power: float) -> int | None:
    """How many users would decide on which side of a bar the relative difference lies, if it is as measured.

    Returns:
        (z_alpha + z_power)^2 (spread sqrt(users) / distance)^2 for a one-sided test; None without a spread, or where
        the difference lies at the bar.
    """
    relative, spread = difference.get("relative"), difference.get("relative_spread")
    if relative is None or spread is None or spread == 0 or relative == bar:
        return None
    z = float(ndtri(1 - alpha) + ndtri(power))
    return int(np.ceil(difference["users"] * (z * spread / (relative - bar)) ** 2))


def json_number(value: float) -> float | None:
    """A number that JSON can hold: None for NaN."""
    return None if np.isnan(value) else float(value)


def _ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    return np.divide(numerator, denominator, out=np.full(numerator.shape, np.nan), where=denominator > 0)


def _sum_by(values: np.ndarray, row: np.ndarray, num_rows: int) -> np.ndarray:
    columns = [np.bincount(row, weights=column, minlength=num_rows) for column in values.T]
    return np.stack(columns, axis=1)
