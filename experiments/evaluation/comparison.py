"""Contrasts: the paired difference of two models over the same cases and over parts of them, in one bootstrap.

Shapes: C cases, U users, M parts of the cases, R resamples.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import ndtri, stdtr

from experiments.evaluation.bootstrap import Totals, bounds, paired, weights
from experiments.evaluation.cases import TARGETS, align, same_cases, true_ranks
from experiments.evaluation.measure import HEADLINE, CompareError, Measured, must_share_split, number, point
from training.metrics import accuracy, geometric_mean

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


PRIMARY = f"ndcg@{HEADLINE}"
FOUND = ("best_steps", "train_events", "weights")  # parameters of a recipe that a fit adds
DEFAULT = "_default"  # ends the label of a model that a tuned one of the same name is to beat
STALE = 1e-9  # a stored mean further than this from the same mean of the rankings: one of the files is old

Frames = Callable[[Measured], Sequence[pd.DataFrame]]  # the rankings of a model, one table per seed


def best_baseline(measured: Sequence[Measured], target: str) -> str | None:
    """Label of the baseline with the highest NDCG@10 on a target, of equals the first; None without baselines."""
    baselines = [one for one in measured if one.baseline and one.point(target, PRIMARY) is not None]
    return min(baselines, key=lambda one: (-one.entry(target, PRIMARY)["mean"], one.label)).label if baselines else None


def best_on_validation(measured: Sequence[Measured], learned: bool) -> str | None:
    """Label of the learned model (or baseline) that is best on validation; the test window has no say.

    Best is the highest geometric mean of the targets' NDCG@10, as in early stopping and tuning: what goes live has
    to serve both. This is how the gate's candidate and the first champion are chosen. A learned baseline is neither.
    """
    kind = [
        one
        for one in measured
        if one.learned == learned and not (one.learned and one.baseline) and not one.oracle and one.validation
    ]
    return max(kind, key=lambda one: (on_validation(one), one.label)).label if kind else None


def on_validation(one: Measured) -> float:
    """Geometric mean of the targets' NDCG@10 on validation."""
    return geometric_mean(point(found[PRIMARY]) or 0.0 for found in one.validation.values())


def comparisons(
    measured: Sequence[Measured],
    frames: Frames,
    seed: int,
    resamples: int,
    pairs: Sequence[tuple[str, str]] = (),
) -> list[dict[str, Any]]:
    """Every learned model of ours against the best baseline of each target, and each further (model, against) pair.

    Two learned models whose parameters differ in one value are such a pair: that value is what is being tried. So are
    a tuned model and the same by its default values.

    Raises:
        CompareError: a pair names an unknown label, or two models do not share split and cases.
    """
    by_label = {one.label: one for one in measured}
    for label in {label for pair in pairs for label in pair} - set(by_label):
        raise CompareError(f"no metrics of {label!r}; known are {', '.join(sorted(by_label))}")
    found = []
    for target in TARGETS:
        baseline = best_baseline(measured, target)
        ours = [one.label for one in measured if one.learned and not one.baseline and not one.oracle]
        wanted = [(label, baseline) for label in ours if baseline is not None]
        for model, against in dict.fromkeys([*wanted, *pairs, *tuned(measured), *ablations(measured)]):
            one, other = by_label[model], by_label[against or ""]
            if target in one.targets and target in other.targets:
                found.append(compare_pair(one, other, frames, target, seed, resamples))
    return found


def tuned(measured: Sequence[Measured]) -> list[tuple[str, str]]:
    """Each model that was tuned, and the same by its default values."""
    labels = {one.label for one in measured}
    return [(one.label, one.label + DEFAULT) for one in measured if one.label + DEFAULT in labels]


def ablations(measured: Sequence[Measured]) -> list[tuple[str, str]]:
    """Pairs of learned models that differ in one parameter, in the order of their labels."""
    learned = [one for one in measured if one.learned and not one.oracle]
    return [
        (one.label, other.label)
        for one, other in combinations(learned, 2)
        if one.model == other.model and len(_asked(one).items() ^ _asked(other).items()) == 2
    ]


def _asked(one: Measured) -> dict[str, str]:
    """The parameters that were asked for, without what the fit found."""
    return {name: repr(value) for name, value in one.params.items() if name not in FOUND}


def compare_pair(
    model: Measured,
    against: Measured,
    frames: Frames,
    target: str,
    seed: int,
    resamples: int,
    metric: str = PRIMARY,
) -> dict[str, Any]:
    """One line of the result file: the paired difference of a metric @10, whole and on cold and warm cases.

    Raises:
        CompareError: the split or the cases differ, or a metrics file does not match its rankings.
    """
    must_share_split([model, against])
    table, mine = _values(model, frames(model), target, metric)
    other_table, theirs = _values(against, frames(against), target, metric)
    if not same_cases(table, other_table):
        both = len(set(table["case_id"]) & set(other_table["case_id"]))
        raise CompareError(
            f"{model.label} has {len(table)} {target} cases, {against.label} {len(other_table)}, "
            f"{both} in common; evaluate both on one split"
        )
    user, cold = table["user_id"].to_numpy(str), table["history_length"].to_numpy() == 0

    def difference(mask: np.ndarray) -> dict[str, Any]:
        found = asdict(paired(mine[mask], theirs[mask], user[mask], seed, resamples))
        return {key: number(found[key]) for key in ("difference", "low", "high", "relative")}

    head = {"target": target, "model": model.label, "against": against.label, "metric": metric}
    parts = {name: difference(mask) for name, mask in (("cold", cold), ("warm", ~cold)) if mask.any()}
    return head | difference(np.ones(len(user), bool)) | {"slices": parts}


def _values(one: Measured, frames: Sequence[pd.DataFrame], target: str, metric: str) -> tuple[pd.DataFrame, np.ndarray]:
    """The aligned cases and their metric, averaged over the seeds."""
    tables = align(frames, target)
    values = np.mean([accuracy(true_ranks(table), [HEADLINE])[metric] for table in tables], axis=0)
    stored = one.point(target, metric)
    if stored is None or abs(values.mean() - stored) > STALE:
        raise CompareError(
            f"{one.label}: its metrics file says {target} {metric} = {stored}, its rankings give "
            f"{values.mean():.10g}; one of the two is old: run evaluate again"
        )
    return tables[0], values
