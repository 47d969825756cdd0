"""Find the weights of a hybrid on the validation period, where each part is tried on what it was not fitted on.

Legend: P parts, Z circumstances, n cases, M candidates, N item rows.
"""

from __future__ import annotations

import time
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

import params
from features.store import Features
from training import validate
from training.answers import Answers, gather
from training.metrics import geometric_mean
from training.models.build import build
from training.models.hybrid import Hybrid
from training.train import FitResult, sizes_of

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
            target: validate.sample(every, settings.validation_cases, seed)
            for target, every in validate.cases(features).items()
        }
        answers = {target: gather(model, features, every, settings.batch_cases) for target, every in cases.items()}
        users = {target: every.user for target, every in cases.items()}
        l2, halves = choose(model.equal_weights(), answers, users, recipe["l2"])
        scores = _cross_fitted(model, features, cases, halves, settings.batch_cases)
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
            found[target][rows] = validate.ndcg(model, features, every.take(rows), trends, size)
    return {target: float(values.mean()) for target, values in found.items()}
