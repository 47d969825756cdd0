"""Scores of a batch: of the whole catalogue, or of a shortlist of it. Worker side.

Legend: B batch, N item rows, M columns.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from features.vocabulary import PAD
from training.models.rank import rank

NO_TRUTH = torch.zeros(2, 0, dtype=torch.int64)
UNRANKED = float("-inf")


@dataclass
class Scored:
    """What may be recommended to each request of a batch, and how much it is worth.

    Attributes:
        scores: (B, M), -inf for what may not be recommended.
        rows: (B, M) item rows, PAD first; None: column j is item row j.
        found: (B, M) bool: the items above which, in a shortlist, nothing can be missing; None: nothing is.
        enough: (B,) bool: whether the model had all that it wanted to see; None: it had.
    """

    scores: Tensor
    rows: Tensor | None = None
    found: Tensor | None = None
    enough: Tensor | None = None

    def of_items(self, row: int, values: Tensor) -> Tensor:
        """(M,) what (N,) values say of a request's columns."""
        return values if self.rows is None else values[self.rows[row]]

    def bar(self, row: int, items: np.ndarray) -> None:
        """Never recommend these item rows to a request."""
        if self.rows is None:
            self.scores[row, items] = UNRANKED
        elif len(items):
            self.bar_where(row, torch.isin(self.rows[row], torch.from_numpy(items)))

    def bar_where(self, row: int, barred: Tensor) -> None:
        """Never recommend these (M,) columns to a request."""
        self.scores[row, barred] = UNRANKED

    def holds(self, row: int, needed: int) -> bool:
        """Whether the best `needed` items are in here, and all of them if there are fewer."""
        if self.found is None or self.enough is None:
            return True
        left = self.found[row] & (self.scores[row] > UNRANKED)
        return bool(self.enough[row]) and int(left.sum()) >= needed

    def best(self, rows: list[int], k: int) -> tuple[Tensor, Tensor]:
        """Of the given requests the (n, k) item rows, PAD where nothing is left, and their scores; best first."""
        scores = self.scores if rows == list(range(len(self.scores))) else self.scores[rows]
        best, top = scores.topk(min(k + 1, scores.shape[1]), dim=1)
        if _tied(best.numpy()):
            top, _ = rank(scores, NO_TRUTH, k)
            best = scores.gather(1, top)
        top, best = top[:, :k], best[:, :k]
        if self.rows is not None:
            top = self.rows[rows].gather(1, top)
        return top.masked_fill(best == UNRANKED, PAD), best


def _tied(best: np.ndarray) -> bool:
    """Whether any of the (n, k) scores, best first, equals the next: then `rank` says which comes first."""
    return bool(((best[:, 1:] == best[:, :-1]) & (best[:, 1:] > UNRANKED)).any())
