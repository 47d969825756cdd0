"""Losses over a catalog, and the samplers and frequency estimates that some of them rest on.

Legend: Q queries, N item rows, M candidates or negatives, P targets, S seen pairs.

Every loss but `factored_softmax` returns one value per target, (P,), which the caller weighs.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from features.vocabulary import PAD
from training.models.base import Factors

MASKED = -1e9  # not -inf: a row may be masked whole, and inf - inf is not a number


def in_batch_softmax(
    scores: Tensor, log_probability: Tensor, masked: Tensor, target_query: Tensor, column: Tensor
) -> Tensor:
    """(P,) cross-entropy over the distinct items of the batch, corrected for their sampling probability.

    An item is a candidate with probability p(j), so exp(s_j) / p(j) estimates its part of the full partition without
    bias (Horvitz-Thompson; `s_j - log p(j)` as in Yi et al. 2019, section 3). The true item is always a candidate, so
    its own score is not corrected. Other true items of the same query (accidental hits) leave the denominator, as the
    history does.

    Args:
        scores: (Q, M) of the batch's distinct items.
        log_probability: (M,) log p(j): that a batch holds the item.
        masked: (2, S) pairs (query, column) of histories.
        target_query: (P,) rows of `scores`.
        column: (P,) columns of the true items.
    """
    corrected = scores - log_probability
    corrected = corrected.index_put((masked[0], masked[1]), corrected.new_tensor(MASKED))
    corrected = corrected.index_put((target_query, column), corrected.new_tensor(MASKED))
    others = torch.logsumexp(corrected, dim=1)[target_query]
    positive = scores[target_query, column]
    return torch.logaddexp(positive, others) - positive


def sampled_softmax(positive: Tensor, negatives: Tensor, log_expected: Tensor) -> Tensor:
    """(P,) cross-entropy of the true item against sampled ones, each corrected by how often it is drawn.

    Args:
        positive: (P,) scores of the true items.
        negatives: (P, M) scores of the sampled items, `MASKED` where a draw does not count.
        log_expected: (P, M) log of the expected number of draws of that item among the M.
    """
    others = torch.logsumexp(negatives - log_expected, dim=1)
    return torch.logaddexp(positive, others) - positive


def binary_cross_entropy(positive: Tensor, negatives: Tensor) -> Tensor:
    """(P,) -log sigmoid(positive) - sum of log sigmoid(-negative) (He et al. 2017, equation 7).

    Args:
        negatives: (P, M), `MASKED` where a draw does not count: its term is then 0.
    """
    return functional.softplus(-positive) + functional.softplus(negatives).sum(dim=1)


MAX_SCORES = 2**20  # held at once: 4 MB, which stay in the cache between passes


class Targets(NamedTuple):
    """The items that each query should predict, and those that it cannot recommend."""

    query: Tensor  # (P,) rows of the queries
    item: Tensor  # (P,) item rows
    weight: Tensor  # (P,)
    masked: Tensor  # (2, S): (query, item row) of the visible history


def factored_softmax(factors: Factors, trends: Tensor, moment: Tensor, targets: Targets) -> Tensor:
    """The targets' weighted cross-entropies over the whole catalog, summed, without ever holding all scores.

    The gradient of a softmax is known with its value, so both are computed while a slice of scores lies in the cache,
    and the scores are dropped.

    Trends are (T, C, N), without gradient; `moment` are (Q,) rows of them.
    """
    # A softmax over a catalog sums thousands of terms: at least in float32, also where the network is in bfloat16.
    with torch.autocast(factors.user.device.type, enabled=False):
        parts = (part.to(torch.promote_types(part.dtype, torch.float32)) for part in factors)
        return _FactoredSoftmax.apply(*parts, trends, moment, *targets)


class _FactoredSoftmax(torch.autograd.Function):
    @staticmethod
    def forward(ctx, user, item, bias, weights, trends, moment, query, target, weight, masked) -> Tensor:
        # Ordered by moment, so that a slice has few of them and each one's queries lie together.
        order = torch.argsort(moment, stable=True)
        position = torch.empty_like(order).index_copy_(0, order, torch.arange(len(order), device=order.device))
        user, weights, moment = user[order], weights[order], moment[order]
        query, seen_query = position[query], position[masked[0]]
        share = torch.zeros_like(user[:, 0]).index_add_(0, query, weight)
        user_gradient, weights_gradient = torch.empty_like(user), torch.empty_like(weights)
        item_gradient, bias_gradient = torch.zeros_like(item), torch.zeros_like(bias)
        loss = user.new_zeros(())
        size = max(1, MAX_SCORES // len(item))
        for begin in range(0, len(user), size):
            part = slice(begin, begin + size)
            groups = _groups(moment[part], begin)
            scores = torch.addmm(bias, user[part], item.T)
            for at, rows in groups:
                scores[rows.start - begin : rows.stop - begin].addmm_(weights[rows], trends[at].to(scores.dtype))
            scores[:, PAD] = MASKED
            inside = (seen_query >= begin) & (seen_query < begin + size)
            scores[seen_query[inside] - begin, masked[1, inside]] = MASKED
            inside = (query >= begin) & (query < begin + size)
            loss += _replace_by_gradient(scores, share[part], (query[inside] - begin, target[inside]), weight[inside])
            user_gradient[part] = scores @ item
            item_gradient.addmm_(scores.T, user[part])
            bias_gradient += scores.sum(dim=0)
            for at, rows in groups:
                weights_gradient[rows] = scores[rows.start - begin : rows.stop - begin] @ trends[at].to(scores.dtype).T
        ctx.save_for_backward(user_gradient[position], item_gradient, bias_gradient, weights_gradient[position])
        return loss

    @staticmethod
    def backward(ctx, gradient: Tensor):
        return *(gradient * part for part in ctx.saved_tensors), None, None, None, None, None, None


def _replace_by_gradient(scores: Tensor, share: Tensor, positive: tuple[Tensor, Tensor], weight: Tensor) -> Tensor:
    """The loss of a slice; its (B, N) scores become the gradient by them, in place.

    `share` (B,) is the weight of all targets of a query, `weight` that of each, `positive` their rows and columns.
    """
    target_scores = scores[positive]
    highest = scores.amax(dim=1)
    total = scores.sub_(highest[:, None]).exp_().sum(dim=1)
    loss = (weight * ((highest + total.log())[positive[0]] - target_scores)).sum()
    scores.mul_((share / total)[:, None]).index_put_(positive, -weight, accumulate=True)
    return loss


def _groups(moment: Tensor, begin: int) -> list[tuple[int, slice]]:
    """Each moment of a slice that starts at row `begin`, and the rows that share it."""
    distinct, counts = torch.unique_consecutive(moment, return_counts=True)
    stops = (begin + counts.cumsum(0)).tolist()
    starts = [begin, *stops[:-1]]
    return [(at, slice(a, b)) for at, a, b in zip(distinct.tolist(), starts, stops, strict=True)]


class NegativeSampler:
    """Draws items with probability proportional to (N,) counts ** alpha (Mikolov et al. 2013, section 2.2); never PAD."""

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

    The paper keeps one moving average of the steps between two appearances; its inverse is the probability. It starts
    from (N,) probabilities; `rate` is alpha in the paper.
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
