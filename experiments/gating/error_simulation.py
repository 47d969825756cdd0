"""Simulated looks of the gate: windows whose users are drawn from a population, judged as a real one is.

Legend: U users of a window, T targets, S looks, R resamples.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from config import params
from config.command import UserError
from experiments.evaluation import bootstrap
from experiments.evaluation.cases import HEADLINE, TARGETS, align_cases, same_cases, true_ranks
from experiments.gating import verdict
from training.metrics import ndcg


@dataclass(frozen=True)
class Population:
    """Sums over each user's cases of NDCG@10: all that a mean over cases needs.

    Attributes:
        gain: (U, T) candidate less champion.
        base: (U, T) champion.
        count: (U, T) cases.
    """

    gain: np.ndarray
    base: np.ndarray
    count: np.ndarray

    def __len__(self) -> int:
        return len(self.gain)

    @property
    def effect(self) -> np.ndarray:
        """(T,) by how much the candidate is better than the champion, relatively, over everybody here."""
        return self.gain.sum(axis=0) / self.base.sum(axis=0)

    def with_effect(self, effect: Sequence[float]) -> Population:
        """The same users, whose candidate is better by exactly this much, relatively, per target.

        Every user keeps by how much they differ from the mean gain, so that the noise stays that of two real models.
        """
        return replace(self, gain=self.gain + (np.asarray(effect) - self.effect) * self.base)


def population(champion: pd.DataFrame, candidate: pd.DataFrame) -> Population:
    """Of two tables of rankings of the same cases.

    Raises:
        UserError: they rank other cases, or one of the targets has none.
    """
    found, sizes = [], []
    for target in TARGETS:
        (theirs,), (ours,) = align_cases([champion], target), align_cases([candidate], target)
        if not len(theirs) or not same_cases(theirs, ours):
            raise UserError(f"the two rankings hold {'other' if len(theirs) else 'no'} {target} cases")
        values = np.stack([_ndcg(ours) - _ndcg(theirs), _ndcg(theirs), np.ones(len(theirs))], axis=1)
        found.append(pd.DataFrame(values).groupby(theirs["user_id"].to_numpy(str)).sum())
        sizes.append(len(theirs))
    everybody = sorted(set().union(*(table.index for table in found)))
    stacked = np.stack([table.reindex(everybody, fill_value=0.0).to_numpy() for table in found], axis=1)
    return Population(*np.moveaxis(stacked, 2, 0))


def _ndcg(table: pd.DataFrame) -> np.ndarray:
    return ndcg(true_ranks(table), HEADLINE)


AT_ONCE = 200  # looks that share their resamples: each block draws its own, as each window in the world would


def verdicts(
    population: Population, users: int, looks: int, policy: params.Gate, resamples: int, seed: int
) -> Counter[str]:
    """How often each verdict came, at the first look at so many windows of so many users."""
    rng = np.random.default_rng([seed, users])
    told: Counter[str] = Counter()
    for begin in range(0, looks, AT_ONCE):
        weights = np.concatenate(list(bootstrap.resample_weights(users, resamples, int(rng.integers(2**31)))))
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


BAR = 0.05  # of either error: what the protocol promises, whatever alpha the policy spends to keep it
EQUAL = "equal on average"
AS_THEY_ARE = "as they are"
WORSE = "better on the primary target, worse by the margin on the other"
BETTER = "better on both"
ALONE = "better on the primary target alone"


def share(point: dict) -> float:
    """Of the looks those that promoted."""
    return point["verdicts"].get(verdict.PROMOTE, 0) / point["looks"]


def of_kind(facts: dict, kind: str, what: str) -> list[dict]:
    """The points of all pairs of a kind."""
    return [
        point for pair in facts["pairs"] if pair["kind"] == kind for point in pair["points"] if point["what"] == what
    ]


def curve(points: Iterable[dict], what: str, effect: float) -> list[tuple[int, float]]:
    """(users, share promoted), by users, of a true effect on the primary target."""
    return sorted(
        (point["users"], share(point))
        for point in points
        if point["what"] == what and max(point["effect"].values()) == effect
    )


def users_needed(points: Iterable[dict], what: str, effect: float, power: float) -> int | None:
    """The least simulated number of users from which on an effect is promoted as often as `power`; None where none is
    enough."""
    reached = None
    for users, promoted in reversed(curve(points, what, effect)):
        if promoted < power:
            break
        reached = users
    return reached


def errors_hold_from(points: Iterable[dict], alpha: float) -> int | None:
    """The least simulated number of users from which on none of these points errs more often than alpha; None where
    the largest does."""
    reached = None
    for point in sorted(points, key=lambda point: -point["users"]):
        if share(point) > alpha:
            break
        reached = point["users"]
    return reached


def pooled(points: Iterable[dict]) -> list[dict]:
    """Points of several pairs as one for each number of users."""
    found: dict[int, dict] = {}
    for point in points:
        into = found.setdefault(point["users"], {"users": point["users"], "looks": 0, "verdicts": {}})
        into["looks"] += point["looks"]
        for name, count in point["verdicts"].items():
            into["verdicts"][name] = into["verdicts"].get(name, 0) + count
    return [found[users] for users in sorted(found)]


def first(facts: dict) -> dict:
    """The pair that the power is read off: of two models, the first."""
    return next(pair for pair in facts["pairs"] if pair["kind"] == "models")


def errors(facts: dict, what: str) -> list[dict]:
    """The points of what should not be promoted; equals are seeds of one recipe where there are several."""
    return of_kind(facts, "seeds", what) or of_kind(facts, "models", what)


def min_users(facts: dict) -> int | None:
    """The least simulated number of users that keeps both errors at BAR and shows the detectable effect."""
    asked = facts["settings"]
    found = [
        errors_hold_from(pooled(errors(facts, EQUAL)), BAR),
        errors_hold_from(pooled(errors(facts, WORSE)), BAR),
        users_needed(first(facts)["points"], BETTER, asked["detectable"], facts["policy"]["power"]),
    ]
    return None if None in found else max(filter(None, found))
