"""What the parts of a hybrid say of the cases of the validation period: all that its weights are found from.

Legend: P parts, Z circumstances, n cases, M candidates, N item rows.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from config import params
from features.encode import Batch
from features.feature_files import Features
from features.sequences import EvaluationCases, batches
from features.vocabulary import PAD
from training import validation
from training.losses import MASKED
from training.metrics import geometric_mean
from training.models.hybrid import Hybrid, circumstances
from training.models.ranking import exclude
from training.models.registry import build
from training.train import FitResult, sizes_of
from training.validation import HEADLINE_K

CANDIDATES = 200  # best of each part: what lies below them cannot reach the head of a list


@dataclass
class Answers:
    """What the parts say of the candidates of each case."""

    scores: Tensor  # (P, n, M)
    about: Tensor  # (n, Z) circumstances
    true: Tensor  # (n, M) 1 or 0
    absent: Tensor  # (n, M) bool: stands for nothing
    ideal: Tensor  # (n,) the best DCG@10 that a ranking of the catalogue could have

    def take(self, rows: np.ndarray) -> Answers:
        return Answers(self.scores[:, rows], *(part[rows] for part in (self.about, self.true, self.absent, self.ideal)))

    def double(self) -> Answers:
        """The same in float64."""
        return Answers(self.scores.double(), self.about.double(), self.true.double(), self.absent, self.ideal)

    def blended(self, weights: Tensor) -> Tensor:
        """(n, M) weighted sums of the scores."""
        summed = torch.einsum("pnm,np->nm", self.scores, self.about @ weights.T)
        return summed.masked_fill(self.absent, MASKED)

    def ndcg(self, weights: Tensor) -> Tensor:
        """(n,) NDCG@10 of the candidates' ranking."""
        head = self.blended(weights).topk(min(HEADLINE_K, self.true.shape[1]), dim=1).indices
        discount = 1 / torch.log2(torch.arange(2, head.shape[1] + 2))
        return (self.true.gather(1, head) * discount).sum(dim=1) / self.ideal

    @torch.no_grad()
    def loss(self, weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Mean, over the cases with a true item among the candidates, of the mean cross-entropy of those.

        Returns:
            The loss, its gradient (P, Z) and its Hessian (P, Z, P, Z) at these (P, Z) weights.
        """
        scores_nPM = self.scores.transpose(0, 1)
        log_share = torch.log_softmax(self.blended(weights), dim=1)
        share, found = log_share.exp(), self.true.sum(dim=1)
        worth = (found > 0) / (found > 0).sum().clamp(min=1)  # (n,) of each case
        true = self.true / found.clamp(min=1)[:, None]
        expected, taken = (torch.einsum("npm,nm->np", scores_nPM, one) for one in (share, true))
        spread = (scores_nPM * share[:, None]) @ scores_nPM.transpose(1, 2) - expected[:, :, None] * expected[:, None]
        return (
            -(worth[:, None] * true * log_share).sum(),
            torch.einsum("np,nz,n->pz", expected - taken, self.about, worth.to(self.about)),
            torch.einsum("npq,nz,ny,n->pzqy", spread, self.about, self.about, worth.to(self.about)),
        )

    def spread(self) -> Tensor:
        """(P,) how far the scores of each part lie apart within a case: the root of the mean variance."""
        inside = (~self.absent).to(self.scores)
        mean = (self.scores * inside).sum(dim=2, keepdim=True) / inside.sum(dim=1, keepdim=True).clamp(min=1)
        return (((self.scores - mean) ** 2 * inside).sum(dim=(1, 2)) / inside.sum().clamp(min=1)).sqrt()


@torch.no_grad()
def gather(model: Hybrid, features: Features, every: EvaluationCases, size: int) -> Answers:
    """Each part's scores of the candidates: the first `CANDIDATES` of every part, or what the first one retrieves.

    True items that no part has among its first count for nothing. Added, they would be the only candidates with
    low scores, and the likelihood would turn the scores over to please them.
    """
    trends = features.trend_log()
    at = validation.moments(every, features.description["refresh_minutes"])
    found: list[tuple[np.ndarray, Answers]] = []
    for rows, batch in batches(features.log, every, trends, model.channels, at, size, model.max_history):
        scores = model.part_scores(batch)
        pairs = validation.truth_pairs(every, rows)
        true = torch.zeros(scores.shape[1:], dtype=torch.bool).index_put_((pairs[0], pairs[1]), torch.tensor(True))
        wanted = torch.zeros_like(true)
        for rows_BK in _candidates(model, scores, batch):
            wanted.scatter_(1, rows_BK, True)
        wanted[batch.seen[0], batch.seen[1]] = False
        wanted[:, PAD] = False
        order = wanted.byte().argsort(dim=1, descending=True, stable=True)[:, : int(wanted.sum(dim=1).max())]
        true &= wanted
        picked = scores.gather(2, order.expand(len(scores), -1, -1))
        sizes = np.diff(every.truth_offsets)[rows]
        ideal = np.cumsum(1 / np.log2(np.arange(2, HEADLINE_K + 2)))[np.clip(sizes, 1, HEADLINE_K) - 1]
        shown = Answers(
            picked, circumstances(batch), true.gather(1, order).float(), ~wanted.gather(1, order),
            torch.from_numpy(ideal).float(),
        )  # fmt: skip
        found.append((rows, shown))
    return _joined(found)


def _candidates(model: Hybrid, scores_PBN: Tensor, batch: Batch) -> list[Tensor]:
    """(B, K) item rows, one tensor for each part that brings candidates."""
    if model.retrieve is not None:
        return [model.retrieved(scores_PBN[0], batch)]
    most = min(CANDIDATES, scores_PBN.shape[2] - 1)
    return [exclude(one, batch.seen).topk(most, dim=1).indices for one in scores_PBN]


def _joined(found: list[tuple[np.ndarray, Answers]]) -> Answers:
    """The batches as one, padded to the widest, in the order of the cases."""
    widest = max(one.scores.shape[2] for _, one in found)
    back = np.argsort(np.concatenate([rows for rows, _ in found]))

    def joined(name: str, dim: int, value: float) -> Tensor:
        parts = [getattr(one, name) for _, one in found]
        return torch.cat([functional.pad(part, (0, widest - part.shape[-1]), value=value) for part in parts], dim=dim)

    about, ideal = (torch.cat([getattr(one, name) for _, one in found]) for name in ("about", "ideal"))
    whole = Answers(joined("scores", 1, 0), about, joined("true", 0, 0), joined("absent", 0, True), ideal)
    return whole.take(back)


STEPS = 100
SLOPE = 1e-7  # of the loss, where the search ends
LEAST_SPREAD = 1e-9


def fit_hybrid(
    recipe: dict, fitted: dict[str, FitResult], features: Features, settings: params.Train, seed: int
) -> FitResult:
    """The parts under one roof. At `valid` the weights are found, at a later cut those of the recipe are taken.

    The validation scores are cross-fitted: each half of the users is scored with weights that the other half gave.

    Args:
        recipe: `parts` maps labels to recipes.
        fitted: each part, fitted at the cut of `features`.
    """
    begun = time.perf_counter()
    model = build(recipe, sizes_of(features))
    assert isinstance(model, Hybrid)
    for label, part in model.parts.items():
        part.load_state_dict(fitted[label].model.state_dict())
    model.eval()
    scores: dict[str, float] = {}
    if features.description["cut"] != "valid":
        model.set_weights(recipe["weights"])
    else:
        cases = {
            target: validation.sample(every, settings.validation_cases, seed)
            for target, every in validation.cases(features).items()
        }
        answers = {target: gather(model, features, every, settings.eval_batch_size) for target, every in cases.items()}
        users = {target: every.user for target, every in cases.items()}
        l2, halves = choose(model.equal_weights(), answers, users, recipe["l2"])
        scores = _cross_fitted(model, features, cases, halves, settings.eval_batch_size)
        weights = most_likely(model.equal_weights(), list(answers.values()), l2)
        model.set_weights(weights.tolist())
        recipe = recipe | {"l2": l2, "weights": weights.tolist()}
    seconds = time.perf_counter() - begun + sum(part.seconds for part in fitted.values())
    return FitResult(model, recipe, seconds, scores, [])


def most_likely(start: Tensor, answers: list[Answers], l2: float) -> Tensor:
    """(P, Z) weights most likely to have foretold the cases, each element of `answers` weighing the same.

    The likelihood is concave in the weights, so there is one optimum; Newton's method in a trust region finds it in a
    dozen steps (Conn, Gould and Toint 2000, section 7.3). In float64, and in units of how far the scores of each part
    lie apart: the parts' scores differ in scale by orders of magnitude.

    Args:
        l2: pull of the weights towards `start`.
    """
    from scipy.optimize import minimize  # here: nobody else need wait for its import

    answers, start = [one.double() for one in answers], start.double()
    apart = torch.stack([one.spread() for one in answers]).mean(dim=0)
    unit = (1 / apart.clamp(min=LEAST_SPREAD))[:, None].expand_as(start)

    @lru_cache(maxsize=2)  # the library asks for value, gradient and Hessian one after the other
    def at(moved: bytes) -> tuple[float, np.ndarray, np.ndarray]:
        pulled = unit * torch.frombuffer(bytearray(moved), dtype=torch.float64).view_as(start)
        loss, gradient, hessian = (
            sum(parts) for parts in zip(*(one.loss(start + pulled) for one in answers), strict=True)
        )
        loss, gradient = loss + l2 * (pulled**2).sum(), gradient + 2 * l2 * pulled
        hessian = hessian.reshape(start.numel(), -1) + 2 * l2 * torch.eye(start.numel(), dtype=torch.float64)
        by = unit.reshape(-1)
        return float(loss), (gradient.reshape(-1) * by).numpy(), (hessian * by[:, None] * by).numpy()

    found = minimize(
        lambda x: at(x.tobytes())[0],
        np.zeros(start.numel()),
        jac=lambda x: at(x.tobytes())[1],
        hess=lambda x: at(x.tobytes())[2],
        method="trust-exact",
        options={"gtol": SLOPE, "maxiter": STEPS},
    )
    return (start + unit * torch.from_numpy(found.x).view_as(start)).float()


def choose(start: Tensor, answers: dict, users: dict, candidates: list[float]) -> tuple[float, list[Tensor]]:
    """The l2 whose weights serve the users best that they were not found on, and its weights without each half."""
    best: tuple[float, float, list[Tensor]] | None = None
    for l2 in candidates:
        halves, scores = [], {target: torch.zeros(len(every)) for target, every in users.items()}
        for half in (0, 1):
            others = [one.take(np.flatnonzero(users[target] % 2 != half)) for target, one in answers.items()]
            halves.append(most_likely(start, others, l2))
            for target, one in answers.items():
                rows = np.flatnonzero(users[target] % 2 == half)
                scores[target][rows] = one.take(rows).ndcg(halves[half])
        score = geometric_mean(float(values.mean()) for values in scores.values())
        if best is None or score > best[0]:
            best = score, l2, halves
    assert best is not None  # params.py wants at least one value
    return best[1], best[2]


def _cross_fitted(model, features, cases, halves, size) -> dict[str, float]:
    """Mean NDCG@10 by target, each case scored with weights that its user had no part in."""
    trends = features.trend_log()
    found = {target: np.zeros(len(every)) for target, every in cases.items()}
    for half, weights in enumerate(halves):
        model.set_weights(weights.tolist())
        for target, every in cases.items():
            rows = np.flatnonzero(every.user % 2 == half)
            found[target][rows] = validation.ndcg(model, features, every.take(rows), trends, size)
    return {target: float(values.mean()) for target, values in found.items()}
