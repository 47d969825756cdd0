"""Fit the stacking weights of a hybrid on the validation period.

Legend: P parts, Z meta-features, n cases, M candidates, N item rows, B batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from config import params
from features.feature_files import Features
from features.sequences import EvaluationCases, batches
from features.vocabulary import PAD
from training import validation
from training.losses import MASKED
from training.metrics import geometric_mean
from training.models.hybrid import Hybrid, meta_features
from training.models.ranking import exclude
from training.validation import HEADLINE_K

CANDIDATES = 200  # the best of each part: what lies below them cannot reach the head of a list
MAX_NEWTON_STEPS = 100
GRADIENT_TOLERANCE = 1e-7  # of the loss, where the search ends
MIN_SPREAD = 1e-9


def fit_stacking(
    model: Hybrid, l2_values: list[float], features: Features, settings: params.Train, seed: int
) -> tuple[float, list[list[float]], dict[str, float]]:
    """Fit the weights of a hybrid whose parts are fitted, choose its l2, and set the weights.

    Returns:
        The l2, the (P, Z) weights, and NDCG@10 by target on the validation period. These scores are cross-fitted: each
        half of the users is scored with weights from the other half.
    """
    cases = validation.sampled_cases(features, settings.validation_cases, seed)
    data = {target: collect_scores(model, features, one, settings.eval_batch_size) for target, one in cases.items()}
    users = {target: one.user for target, one in cases.items()}
    l2, half_weights = choose_l2(model.equal_weights(), data, users, l2_values)
    scores = _cross_fitted_scores(model, features, cases, half_weights, settings.eval_batch_size)
    weights = fit_stacking_weights(model.equal_weights(), list(data.values()), l2).tolist()
    model.set_weights(weights)
    return l2, weights, scores


@dataclass
class StackingData:
    """Scores of the parts for the candidates of each case."""

    scores: Tensor  # (P, n, M)
    meta: Tensor  # (n, Z) meta-features
    true: Tensor  # (n, M) 1 or 0
    absent: Tensor  # (n, M) bool: padding
    ideal: Tensor  # (n,) the best DCG@10 that a ranking of the catalog could have

    def take(self, rows: np.ndarray) -> StackingData:
        rest = (part[rows] for part in (self.meta, self.true, self.absent, self.ideal))
        return StackingData(self.scores[:, rows], *rest)

    def double(self) -> StackingData:
        """The same in float64."""
        return StackingData(self.scores.double(), self.meta.double(), self.true.double(), self.absent, self.ideal)

    def blended(self, weights: Tensor) -> Tensor:
        """(n, M) weighted sums of the scores."""
        summed = torch.einsum("pnm,np->nm", self.scores, self.meta @ weights.T)
        return summed.masked_fill(self.absent, MASKED)

    def ndcg(self, weights: Tensor) -> Tensor:
        """(n,) NDCG@10 of the ranking of the candidates."""
        head = self.blended(weights).topk(min(HEADLINE_K, self.true.shape[1]), dim=1).indices
        discount = 1 / torch.log2(torch.arange(2, head.shape[1] + 2))
        return (self.true.gather(1, head) * discount).sum(dim=1) / self.ideal

    @torch.no_grad()
    def loss(self, weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Mean cross-entropy of the true candidates, over the cases that have any.

        Returns:
            The loss, its gradient (P, Z) and its Hessian (P, Z, P, Z) at these (P, Z) weights.
        """
        scores_nPM = self.scores.transpose(0, 1)
        log_share = torch.log_softmax(self.blended(weights), dim=1)
        share, num_true = log_share.exp(), self.true.sum(dim=1)
        case_weight = (num_true > 0) / (num_true > 0).sum().clamp(min=1)  # (n,)
        true = self.true / num_true.clamp(min=1)[:, None]
        expected, observed = (torch.einsum("npm,nm->np", scores_nPM, one) for one in (share, true))
        covariance = (scores_nPM * share[:, None]) @ scores_nPM.transpose(1, 2)
        covariance = covariance - expected[:, :, None] * expected[:, None]
        return (
            -(case_weight[:, None] * true * log_share).sum(),
            torch.einsum("np,nz,n->pz", expected - observed, self.meta, case_weight.to(self.meta)),
            torch.einsum("npq,nz,ny,n->pzqy", covariance, self.meta, self.meta, case_weight.to(self.meta)),
        )

    def spread(self) -> Tensor:
        """(P,) how far the scores of each part lie apart within a case: the root of the mean variance."""
        inside = (~self.absent).to(self.scores)
        mean = (self.scores * inside).sum(dim=2, keepdim=True) / inside.sum(dim=1, keepdim=True).clamp(min=1)
        return (((self.scores - mean) ** 2 * inside).sum(dim=(1, 2)) / inside.sum().clamp(min=1)).sqrt()


@torch.no_grad()
def collect_scores(model: Hybrid, features: Features, cases: EvaluationCases, batch_size: int) -> StackingData:
    """Each part's scores of the candidates: the first `CANDIDATES` of every part, or what the first one retrieves.

    True items that are no part's candidates count for nothing. If they were added, they would be the only candidates
    with low scores, and the likelihood would turn the scores over to please them.
    """
    trends = features.trend_log()
    at = validation.moments(cases, features.description["refresh_minutes"])
    ideal_by_length = np.cumsum(1 / np.log2(np.arange(2, HEADLINE_K + 2)))
    found: list[tuple[np.ndarray, StackingData]] = []
    for rows, batch in batches(features.log, cases, trends, model.channels, at, batch_size, model.max_history):
        scores = model.part_scores(batch)
        pairs = validation.truth_pairs(cases, rows)
        true = torch.zeros(scores.shape[1:], dtype=torch.bool).index_put_((pairs[0], pairs[1]), torch.tensor(True))
        wanted = torch.zeros_like(true)
        if model.retrieve is not None:
            wanted.scatter_(1, model.retrieved(scores[0], batch), True)
        else:
            for one in scores:
                best = exclude(one, batch.seen).topk(min(CANDIDATES, one.shape[1] - 1), dim=1).indices
                wanted.scatter_(1, best, True)
        wanted[batch.seen[0], batch.seen[1]] = False
        wanted[:, PAD] = False
        order = wanted.byte().argsort(dim=1, descending=True, stable=True)[:, : int(wanted.sum(dim=1).max())]
        true &= wanted
        num_true = np.diff(cases.truth_offsets)[rows]
        data = StackingData(
            scores=scores.gather(2, order.expand(len(scores), -1, -1)),
            meta=meta_features(batch),
            true=true.gather(1, order).float(),
            absent=~wanted.gather(1, order),
            ideal=torch.from_numpy(ideal_by_length[np.clip(num_true, 1, HEADLINE_K) - 1]).float(),
        )
        found.append((rows, data))
    return _joined(found)


def _joined(found: list[tuple[np.ndarray, StackingData]]) -> StackingData:
    """The batches as one, padded to the widest, in the order of the cases."""
    width = max(one.scores.shape[2] for _, one in found)
    order = np.argsort(np.concatenate([rows for rows, _ in found]))

    def padded(name: str, dim: int, value: float) -> Tensor:
        parts = [getattr(one, name) for _, one in found]
        return torch.cat([functional.pad(part, (0, width - part.shape[-1]), value=value) for part in parts], dim=dim)

    meta, ideal = (torch.cat([getattr(one, name) for _, one in found]) for name in ("meta", "ideal"))
    joined = StackingData(padded("scores", 1, 0), meta, padded("true", 0, 0), padded("absent", 0, True), ideal)
    return joined.take(order)


def fit_stacking_weights(start: Tensor, data: list[StackingData], l2: float) -> Tensor:
    """(P, Z) weights of maximum likelihood, where each element of `data` counts the same.

    The likelihood is concave in the weights, so there is one optimum; Newton's method in a trust region finds it in a
    dozen steps (Conn, Gould and Toint 2000, section 7.3). In float64, and in units of how far the scores of each part
    lie apart: the parts' scores differ in scale by orders of magnitude. `l2` pulls the weights towards `start`, which
    stays without data.
    """
    if not data:
        return start
    from scipy.optimize import minimize  # slow to import

    data, start = [one.double() for one in data], start.double()
    spread = torch.stack([one.spread() for one in data]).mean(dim=0)
    unit = (1 / spread.clamp(min=MIN_SPREAD))[:, None].expand_as(start)

    @lru_cache(maxsize=2)  # the library asks for the Hessian after the rest
    def at(moved: bytes) -> tuple[float, np.ndarray, np.ndarray]:
        shift = unit * torch.frombuffer(bytearray(moved), dtype=torch.float64).view_as(start)
        loss, gradient, hessian = (sum(parts) for parts in zip(*(one.loss(start + shift) for one in data), strict=True))
        loss, gradient = loss + l2 * (shift**2).sum(), gradient + 2 * l2 * shift
        hessian = hessian.reshape(start.numel(), -1) + 2 * l2 * torch.eye(start.numel(), dtype=torch.float64)
        scale = unit.reshape(-1)
        return float(loss), (gradient.reshape(-1) * scale).numpy(), (hessian * scale[:, None] * scale).numpy()

    found = minimize(
        lambda x: at(x.tobytes())[:2],
        np.zeros(start.numel()),
        jac=True,
        hess=lambda x: at(x.tobytes())[2],
        method="trust-exact",
        options={"gtol": GRADIENT_TOLERANCE, "maxiter": MAX_NEWTON_STEPS},
    )
    return (start + unit * torch.from_numpy(found.x).view_as(start)).float()


def choose_l2(
    start: Tensor, data: dict[str, StackingData], users: dict[str, np.ndarray], l2_values: list[float]
) -> tuple[float, list[Tensor]]:
    """The l2 whose weights rank best for users that they were not fitted on, and its weights without each half."""
    found = []
    for l2 in l2_values:
        half_weights, scores = [], {target: torch.zeros(len(user)) for target, user in users.items()}
        for half in (0, 1):
            others = [one.take(np.flatnonzero(users[target] % 2 != half)) for target, one in data.items()]
            half_weights.append(fit_stacking_weights(start, others, l2))
            for target, one in data.items():
                rows = np.flatnonzero(users[target] % 2 == half)
                scores[target][rows] = one.take(rows).ndcg(half_weights[half])
        score = geometric_mean(float(values.mean()) for values in scores.values())
        found.append((score, l2, half_weights))
    _, best_l2, best_weights = max(found, key=lambda one: one[0])
    return best_l2, best_weights


def _cross_fitted_scores(
    model: Hybrid, features: Features, cases: dict[str, EvaluationCases], half_weights: list[Tensor], batch_size: int
) -> dict[str, float]:
    """Mean NDCG@10 by target, each case scored with weights that were fitted without its user."""
    trends = features.trend_log()
    values = {target: np.zeros(len(one)) for target, one in cases.items()}
    for half, weights in enumerate(half_weights):
        model.set_weights(weights.tolist())
        for target, one in cases.items():
            rows = np.flatnonzero(one.user % 2 == half)
            values[target][rows] = validation.ndcg(model, features, one.take(rows), trends, batch_size)
    return {target: float(found.mean()) for target, found in values.items()}
