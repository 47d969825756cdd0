"""Contrasts: the paired difference of two models over the same cases and over parts of them, in one bootstrap.

Shapes: C cases, U users, M parts of the cases, R resamples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.special import ndtri, stdtr

from experiments.evaluation.bootstrap import Totals, bounds, weights
from experiments.evaluation.measure import number

WHOLE = "all"


def contrasts(
    ours: np.ndarray, theirs: np.ndarray, user: np.ndarray, parts: Mapping[str, np.ndarray],
    margin: float, seed: int, resamples: int, level: float,
) -> dict[str, dict[str, Any]]:  # fmt: skip
    """Mean of ours - theirs over all cases ("all") and over each part, users resampled; the same resamples for all.

    Args:
        ours, theirs: (C,) metric of the same cases in the same order, higher is better.
        user: (C,) whose case each is.
        parts: name -> (C,) bool; empty ones are left out.
        margin: how much worse, relatively, is still no loss; of `p_loss`.
        level: of the two-sided intervals.

    Returns:
        Name -> {"users", "cases", "candidate", "against" (means), "difference", "low", "high", "spread", the same four
        as "relative..." (over the mean of theirs), "p_loss"}. `spread` is the standard error; what is undefined is
        None: bounds of fewer than two users, what is relative to 0. `p_loss` is the one-sided p of the hypothesis that
        no more than the margin is lost.

    Raises:
        ValueError: the cases differ in number.
    """
    if not len(ours) == len(theirs) == len(user):
        raise ValueError(f"paired cases differ in number: {len(ours)}, {len(theirs)}, users of {len(user)}")
    masks = {WHOLE: np.ones(len(ours), bool)} | {name: mask for name, mask in parts.items() if mask.any()}
    names, row = np.unique(user, return_inverse=True)
    inside = np.stack(list(masks.values()), axis=1)
    gain, base = (
        Totals.of(np.where(inside, values[:, None], np.nan), row, len(names)) for values in (ours - theirs, theirs)
    )
    stacked = np.hstack([gain.sums, base.sums, gain.counts])  # (U, 3M)
    drawn = np.concatenate([block @ stacked for block in weights(len(names), resamples, seed)])
    whole, resampled = np.split(stacked.sum(axis=0), 3), np.split(drawn, 3, axis=1)
    users = (gain.counts > 0).sum(axis=0)
    columns = _described(whole, resampled, users, margin, level)
    return {
        name: {"users": int(users[at]), "cases": int(whole[2][at])}
        | {key: number(float(values[at])) for key, values in columns.items()}
        for at, name in enumerate(masks)
    }  # fmt: skip


def _described(
    whole: Sequence[np.ndarray], resampled: Sequence[np.ndarray], users: np.ndarray, margin: float, level: float
) -> dict[str, np.ndarray]:
    """Key -> (M,); `whole` and `resampled` are gain, base and count, (M,) and (R, M) each."""
    gain, base, count = whole
    slack = _ratio(resampled[0] + margin * resampled[1], resampled[2])
    return {
        "candidate": _ratio(gain + base, count),
        "against": _ratio(base, count),
        **_interval("", _ratio(gain, count), _ratio(resampled[0], resampled[2]), users, level),
        **_interval("relative", _ratio(gain, base), _ratio(resampled[0], resampled[1]), users, level),
        "p_loss": p_below_zero(_ratio(gain + margin * base, count), _spread(slack, users), users),
    }


def _interval(prefix: str, mean: np.ndarray, draws: np.ndarray, users: np.ndarray, level: float) -> dict:
    low, high = bounds(draws, level)
    judged, under = users >= 2, f"{prefix}_" if prefix else ""
    return {
        prefix or "difference": mean,
        f"{under}low": np.where(judged, low, np.nan),
        f"{under}high": np.where(judged, high, np.nan),
        f"{under}spread": _spread(draws, users),
    }


def _spread(draws: np.ndarray, users: np.ndarray) -> np.ndarray:
    """(M,) standard errors; a resample that drew no user of a part has no mean of it and is left out."""
    defined = ~np.isnan(draws)
    n = np.maximum(defined.sum(axis=0), 1)
    filled = np.where(defined, draws, 0)
    mean = filled.sum(axis=0) / n
    variance = (np.where(defined, draws - mean, 0) ** 2).sum(axis=0) / n
    return np.where(users >= 2, np.sqrt(variance * users / np.maximum(users - 1, 1)), np.nan)


def p_below_zero(mean: np.ndarray, spread: np.ndarray, users: np.ndarray) -> np.ndarray:
    """(M,) one-sided p of the hypothesis that the true mean is not below 0: Student's t on the bootstrap's spread.

    No smaller than a sign test on so many users could reach, 2^-users: five alike do not show much. 1 with fewer than two.
    """
    t = np.divide(mean, spread, out=np.where(mean < 0, -np.inf, np.inf), where=spread > 0)
    p = np.maximum(stdtr(np.maximum(users - 1, 1), t), 0.5 ** users.astype(float))
    return np.where(users >= 2, p, 1.0)


def holm(p: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values (1979), in the order given: all below alpha are rejected, family-wise at alpha."""
    order = np.argsort(p, kind="stable")
    factors = len(p) - np.arange(len(p))
    adjusted = np.minimum(np.maximum.accumulate(np.asarray(p, float)[order] * factors), 1.0)
    return adjusted[np.argsort(order)].tolist()


def users_to_decide(found: Mapping[str, Any], bar: float, alpha: float, power: float) -> int | None:
    """How many users would show, with this power at one-sided alpha, on which side of the bar the relative difference
    lies, if it is what was measured: (z_alpha + z_power)^2 (spread sqrt(users) / distance)^2.

    Returns:
        None where nothing can be said: no spread, or a difference at the bar itself.
    """
    relative, spread = found.get("relative"), found.get("relative_spread")
    if relative is None or spread is None or spread == 0 or relative == bar:
        return None
    z = float(ndtri(1 - alpha) + ndtri(power))
    return int(np.ceil(found["users"] * (z * spread / (relative - bar)) ** 2))


def _ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    return np.divide(numerator, denominator, out=np.full(numerator.shape, np.nan), where=denominator > 0)
