"""Two models on one window, user by user: what simulated looks at other users are drawn from.

Legend: U users, T targets, in the order of TARGETS.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from command import UserError
from experiments.evaluation.cases import TARGETS, align, same_cases, true_ranks
from experiments.evaluation.measure import HEADLINE
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
        (theirs,), (ours,) = align([champion], target), align([candidate], target)
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
