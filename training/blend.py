"""Find the weights of a hybrid on the validation period, where each part is tried on what it was not fitted on.

Legend: P parts, Z circumstances, n cases, M candidates, N item rows.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

import params
from features.sequences import Cases, batches
from features.store import Features
from features.vocabulary import PAD
from training import validate
from training.losses import MASKED
from training.models.build import build
from training.models.hybrid import Hybrid, circumstances
from training.models.rank import exclude
from training.train import FitResult, sizes_of

CANDIDATES = 200  # best of each part: what lies below them cannot reach the head of a list
STEPS = 100


@dataclass
class Answers:
    """What the parts say of the candidates of each case."""

    scores: Tensor  # (P, n, M)
    about: Tensor  # (n, Z) circumstances
    true: Tensor  # (n, M) 1 or 0
    absent: Tensor  # (n, M) bool: stands for nothing

    def take(self, rows: np.ndarray) -> Answers:
        return Answers(self.scores[:, rows], self.about[rows], self.true[rows], self.absent[rows])

    def loss(self, weights: Tensor) -> Tensor:
        """Mean, over the cases with a true item among the candidates, of the mean cross-entropy of those."""
        blended = torch.einsum("pnm,np->nm", self.scores, self.about @ weights.T).masked_fill(self.absent, MASKED)
        each = torch.logsumexp(blended, dim=1, keepdim=True) - blended
        found = self.true.sum(dim=1)
        return ((each * self.true).sum(dim=1) / found.clamp(min=1)).sum() / (found > 0).sum().clamp(min=1)


def fit_hybrid(
    recipe: dict, fitted: dict[str, FitResult], features: Features, settings: params.Train, seed: int
) -> FitResult:
    """The parts under one roof. At `valid` the weights are found, at `test` those of the recipe are taken.

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
    if features.description["cut"] == "test":
        model.set_weights(recipe["weights"])
    else:
        cases = {
            target: validate.sample(every, settings.validation_cases, seed)
            for target, every in validate.cases(features).items()
        }
        answers = {target: gather(model, features, every, settings.batch_cases) for target, every in cases.items()}
        scores = _cross_fitted(model, features, cases, answers, settings.batch_cases, recipe["l2"])
        weights = most_likely(model.equal_weights(), list(answers.values()), recipe["l2"])
        model.set_weights(weights.tolist())
        recipe = recipe | {"weights": weights.tolist()}
    seconds = time.perf_counter() - begun + sum(part.seconds for part in fitted.values())
    return FitResult(model, recipe, seconds, scores, [])


def most_likely(start: Tensor, answers: list[Answers], l2: float) -> Tensor:
    """(P, Z) weights most likely to have foretold the cases, each element of `answers` weighing the same.

    The likelihood is concave in the weights, so there is one optimum; L-BFGS finds it.

    Args:
        l2: pull of the weights towards `start`.
    """
    weights = start.clone().requires_grad_()
    optimizer = torch.optim.LBFGS([weights], max_iter=STEPS, line_search_fn="strong_wolfe")

    def objective() -> Tensor:
        optimizer.zero_grad()
        loss = torch.stack([one.loss(weights) for one in answers]).sum() + l2 * ((weights - start) ** 2).sum()
        loss.backward()
        return loss

    optimizer.step(objective)
    return weights.detach()


def _cross_fitted(model, features, cases, answers, size, l2) -> dict[str, float]:
    """Mean NDCG@10 by target, each case scored with weights that its user had no part in."""
    trends = features.trend_log()
    found = {target: np.zeros(len(every)) for target, every in cases.items()}
    for half in (0, 1):
        theirs = [one.take(np.flatnonzero(cases[target].user % 2 != half)) for target, one in answers.items()]
        model.set_weights(most_likely(model.equal_weights(), theirs, l2).tolist())
        for target, every in cases.items():
            rows = np.flatnonzero(every.user % 2 == half)
            found[target][rows] = validate.ndcg(model, features, every.take(rows), trends, size)
    return {target: float(values.mean()) for target, values in found.items()}


@torch.no_grad()
def gather(model: Hybrid, features: Features, every: Cases, size: int) -> Answers:
    """Each part's scores of the candidates: the first `CANDIDATES` of every part.

    True items that no part has among its first count for nothing. Added, they would be the only candidates with
    low scores, and the likelihood would turn the scores over to please them.
    """
    trends = features.trend_log()
    at = validate.moments(every, features.description["refresh_minutes"])
    found: list[tuple[np.ndarray, Answers]] = []
    for rows, batch in batches(features.log, every, trends, model.channels, at, size, model.max_history):
        scores = model.part_scores(batch)
        pairs = validate.truth_pairs(every, rows)
        true = torch.zeros(scores.shape[1:], dtype=torch.bool).index_put_((pairs[0], pairs[1]), torch.tensor(True))
        wanted = torch.zeros_like(true)
        for one in scores:
            wanted.scatter_(1, exclude(one, batch.seen).topk(min(CANDIDATES, one.shape[1] - 1), dim=1).indices, True)
        wanted[batch.seen[0], batch.seen[1]] = False
        wanted[:, PAD] = False
        order = wanted.byte().argsort(dim=1, descending=True, stable=True)[:, : int(wanted.sum(dim=1).max())]
        true &= wanted
        picked = scores.gather(2, order.expand(len(scores), -1, -1))
        shown = Answers(picked, circumstances(batch), true.gather(1, order).float(), ~wanted.gather(1, order))
        found.append((rows, shown))
    return _joined(found)


def _joined(found: list[tuple[np.ndarray, Answers]]) -> Answers:
    """The batches as one, padded to the widest, in the order of the cases."""
    widest = max(one.scores.shape[2] for _, one in found)
    back = np.argsort(np.concatenate([rows for rows, _ in found]))

    def joined(name: str, dim: int, value: float) -> Tensor:
        parts = [getattr(one, name) for _, one in found]
        return torch.cat([functional.pad(part, (0, widest - part.shape[-1]), value=value) for part in parts], dim=dim)

    about = torch.cat([one.about for _, one in found])
    return Answers(joined("scores", 1, 0), about, joined("true", 0, 0), joined("absent", 0, True)).take(back)
