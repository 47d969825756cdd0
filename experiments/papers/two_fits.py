"""Fit twice: without a pair of each user, whose rank says for how many epochs, then so long on all pairs.

Legend: U users, C candidates.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from experiments.papers.given_negatives import Given, hold_out, metrics, ranks

Scorer = Callable[[Given], Tensor]  # (U, C) scores of each user's candidates, from all that the user took
Training = Callable[[Given, int], Iterator[Scorer]]  # so many epochs on all pairs of `taken`: a scorer after each


@dataclass(frozen=True)
class Fit:
    """What a fit on all pairs scores, and what the fit without the held-out ones did."""

    scores: Tensor  # (U, C) of the given candidates
    held_scores: Tensor  # (U, C) of the held-out ones, by the fit that did not see them
    held_out: list[float]  # HR@10 and NDCG@10 there
    best_epoch: int
    seconds: float


def fit(training: Training, given: Given, seed: int, epochs: int, patience: int) -> Fit:
    """The given candidates decide nothing and are scored once, at the end."""
    begun = time.perf_counter()
    held = hold_out(given, torch.Generator().manual_seed(seed))
    best, found, best_epoch, held_scores = -1.0, np.zeros(2), 0, torch.empty(0)
    for epoch, scorer in enumerate(training(held, epochs), start=1):
        scores = scorer(held)
        values = metrics(ranks(scores)).mean(axis=0)
        if values[1] > best:
            best, found, best_epoch, held_scores = values[1], values, epoch, scores
        if epoch - best_epoch >= patience:
            break
    *_, scorer = training(given, best_epoch)
    return Fit(scorer(given), held_scores, found.tolist(), best_epoch, time.perf_counter() - begun)
