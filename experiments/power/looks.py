"""Simulated looks of the gate: windows whose users are drawn from a population, judged as a real one is.

Legend: U users of a window, T targets, S looks, R resamples.
"""

from __future__ import annotations

from collections import Counter

import numpy as np

import params
from experiments.evaluation import bootstrap
from experiments.evaluation.cases import TARGETS
from experiments.gating import verdict
from experiments.power.population import Population

AT_ONCE = 200  # looks that share their resamples: each block draws its own, as each window in the world would


def verdicts(
    population: Population, users: int, looks: int, policy: params.Gate, resamples: int, seed: int
) -> Counter[str]:
    """How often each verdict came, at the first look at so many windows of so many users."""
    rng = np.random.default_rng([seed, users])
    told: Counter[str] = Counter()
    for begin in range(0, looks, AT_ONCE):
        weights = np.concatenate(list(bootstrap.weights(users, resamples, int(rng.integers(2**31)))))
        drawn = rng.integers(0, len(population), (users, min(AT_ONCE, looks - begin)))
        told.update(_judge(population, drawn, weights, policy))
    return told


def _judge(population: Population, drawn: np.ndarray, weights: np.ndarray, policy: params.Gate) -> list[str]:
    """The verdict of each look; `drawn` (U, S) says whom it sees."""
    gain, base, count = (part[drawn] for part in (population.gain, population.base, population.count))  # (U, S, T)
    resampled = [_by(weights, part) for part in (gain, base, count)]  # (R, S, T)
    level = verdict.level(policy, 1)
    whole = [part.sum(axis=0) for part in (gain, base, count)]  # (S, T)
    with np.errstate(divide="ignore", invalid="ignore"):  # of a window in which the champion hits nothing
        absolute, relative = (
            (whole[0] / whole[under], *_bounds(resampled[0] / resampled[under], level)) for under in (2, 1)
        )
    seen = (count > 0).sum(axis=0)
    decided = policy.model_copy(update={"min_users": 1})  # what is asked is what so few users would bring
    return [
        verdict.decide({name: _told(seen, absolute, relative, look, at) for at, name in enumerate(TARGETS)}, decided)[0]
        for look in range(drawn.shape[1])
    ]


def _by(weights: np.ndarray, values: np.ndarray) -> np.ndarray:
    """(R, S, T) sums of (U, S, T) values over users, as often as each is drawn."""
    users, looks, targets = values.shape
    return (weights @ values.reshape(users, -1)).reshape(len(weights), looks, targets)


def _bounds(draws: np.ndarray, level: float) -> tuple[np.ndarray, np.ndarray]:
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return low, high


def _told(seen: np.ndarray, absolute: tuple, relative: tuple, look: int, at: int) -> dict:
    """Of one look and target what `evidence.compare` says of a real one."""
    names = ("difference", "low", "high", "relative", "relative_low", "relative_high")
    values = [float(part[look, at]) for part in (*absolute, *relative)]
    return {"users": int(seen[look, at]), **dict(zip(names, values, strict=True))}
