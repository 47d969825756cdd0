"""Sample the items that a loss compares the true one with, and estimate how likely each is in a batch.

Legend: N item rows, P targets, M negatives of each.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from features.vocabulary import PAD


class NegativeSampler:
    """Draws items with probability proportional to popularity^alpha (Mikolov et al. 2013, section 2.2).

    Args:
        counts: (N,) how often each item was taken before the cut; PAD's is ignored.
        alpha: 0 draws uniformly from all items, 1 in proportion to popularity.
        seed: of the draws.
    """

    def __init__(self, counts: np.ndarray, alpha: float, seed: int) -> None:
        weights = np.maximum(counts, 1).astype(np.float64) ** alpha
        weights[PAD] = 0
        self.probability = torch.from_numpy(weights / weights.sum())
        self._steps = torch.cumsum(self.probability, dim=0)
        self._seed, self._generator = seed, torch.Generator().manual_seed(seed)

    def begin_epoch(self, epoch: int) -> None:
        """Seed the draws by (seed, epoch), so that a resumed run draws what an uninterrupted one draws."""
        self._generator.manual_seed(self._seed + 1_000_003 * epoch)

    def draw(self, targets: int, count: int) -> Tensor:
        """(P, M) int64 item rows, never PAD, with replacement."""
        points = torch.rand(targets, count, generator=self._generator, dtype=torch.float64)
        found = torch.searchsorted(self._steps, points * self._steps[-1], right=True)
        return found.clamp(min=1, max=len(self._steps) - 1)

    def log_expected(self, items: Tensor, count: int) -> Tensor:
        """log of the expected number of draws of each item among `count`; the shape of `items`."""
        return (torch.log(self.probability[items.cpu()]) + np.log(count)).float().to(items.device)


class StreamingFrequency:
    """How likely a batch holds each item, estimated from the batches as they pass (Yi et al. 2019, algorithm 2).

    The paper keeps one moving average of the steps between two appearances; its inverse is the probability.

    Args:
        initial: (N,) probabilities to start from.
        rate: of the moving average, alpha in the paper.
    """

    def __init__(self, initial: np.ndarray, rate: float) -> None:
        self.interval = torch.from_numpy(1 / np.clip(initial, 1e-6, 1)).double()
        self._seen_at = torch.zeros(len(initial), dtype=torch.float64)
        self._started = torch.zeros(len(initial), dtype=torch.bool)
        self._rate, self._step = rate, 0

    def update(self, items: Tensor) -> None:
        """Count one batch that holds the distinct `items`."""
        items = items.cpu()
        self._step += 1
        since = self._step - self._seen_at[items]
        moved = (1 - self._rate) * self.interval[items] + self._rate * since
        # The first appearance has no earlier one to measure from.
        self.interval[items] = torch.where(self._started[items], moved, self.interval[items])
        self._seen_at[items] = float(self._step)
        self._started[items] = True

    def state(self) -> dict[str, Tensor | int]:
        """The estimate so far, for `restore`."""
        return {"interval": self.interval, "seen_at": self._seen_at, "started": self._started, "step": self._step}

    def restore(self, state: dict) -> None:
        """Continue from a `state`."""
        self.interval, self._seen_at, self._started = (state[name] for name in ("interval", "seen_at", "started"))
        self._step = int(state["step"])

    def log_probability(self, items: Tensor) -> Tensor:
        """(M,) float32 log p, at most 0."""
        return -torch.log(self.interval[items.cpu()].clamp(min=1)).float().to(items.device)
