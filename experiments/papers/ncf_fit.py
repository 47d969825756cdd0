"""Fit a network on sets of items: part of a user's set is read, the rest is what it should foretell.

Legend: U users, B users of a batch, N item rows (PAD's included), C candidates.
"""

from __future__ import annotations

import copy
import time
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from experiments.papers.given_negatives import Given, hold_out, metrics, ranks
from experiments.papers.set_history import SetNeuralCF
from training import losses
from training.module import move_average, parameter_groups
from training.negatives import NegativeSampler


@dataclass(frozen=True)
class Fit:
    """A network, with the averaged weights that did best on the held-out pairs."""

    model: SetNeuralCF
    held_out: list[float]  # HR@10 and NDCG@10 there
    best_epoch: int
    seconds: float


def fit(kind: type[SetNeuralCF], given: Given, recipe: dict, seed: int, epochs: int) -> Fit:
    """Train on all pairs of `given.taken` but one of each user, whose rank says when to stop.

    The given candidates are not looked at.
    """
    begun = time.perf_counter()
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    held = hold_out(given, generator)
    model = kind(recipe, held.taken.shape[1])
    average = copy.deepcopy(model).requires_grad_(False).eval()
    sampler = NegativeSampler(held.taken.sum(dim=0).numpy(), recipe["alpha"], seed)
    groups = parameter_groups(model, recipe["weight_decay"])
    optimizer = torch.optim.AdamW(groups, lr=recipe["learning_rate"])
    best, found, best_epoch, state, step = -1.0, np.zeros(2), 0, average.state_dict(), 0
    for epoch in range(1, epochs + 1):
        model.train()
        for users in torch.randperm(len(held.taken), generator=generator).split(recipe["batch_users"]):
            optimizer.zero_grad()
            loss(model, held.taken[users], sampler, recipe, generator).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            step += 1
            move_average(average, model, step, recipe["average_decay"])
        values = metrics(ranks(score(average, held))).mean(axis=0)
        if values[1] > best:
            best, found, best_epoch, state = values[1], values, epoch, copy.deepcopy(average.state_dict())
        if epoch - best_epoch >= recipe["patience"]:
            break
    average.load_state_dict(state)
    return Fit(average, found.tolist(), best_epoch, time.perf_counter() - begun)


def split(taken: Tensor, least: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """What is read of (B, N) sets, and what is to be foretold: no item is in both, so none foretells itself.

    In place of leaving out one item at a time: the network meets many pairs for one pass over a set. Each
    set's share to be read is uniform in [least, 1).
    """
    share = least + (1 - least) * torch.rand(len(taken), 1, generator=generator)
    read = taken & (torch.rand(taken.shape, generator=generator) < share)
    return read, taken & ~read


def loss(model: SetNeuralCF, taken: Tensor, sampler: NegativeSampler, recipe: dict, generator) -> Tensor:
    """Mean cross-entropy of the pairs to be foretold, each against sampled items that its user did not take.

    All users of a batch meet the same negatives, so that only the positives are scored pair by pair.
    """
    read, told = split(taken, recipe["least_read"], generator)
    user = model.users_of(read)
    drawn = sampler.draw(1, recipe["negatives"])[0]
    negatives = model.match(user, drawn).masked_fill(taken[:, drawn], losses.MASKED)
    # One sum for all positives of a user: they share it, and a row of negatives for each would be (P, M).
    others = torch.logsumexp(negatives - sampler.log_expected(drawn, len(drawn)), dim=1, keepdim=True)
    question, item = told.nonzero().T
    positive = model.match_pairs(user, question, item[:, None])[:, 0]
    each = losses.sampled_softmax(positive, others[question], torch.zeros(()))
    return each.sum() / max(1, len(each))


@torch.no_grad()
def score(model: SetNeuralCF, given: Given, batch_users: int = 512) -> Tensor:
    """(U, C) scores of each user's candidates, from all that the user took."""
    parts = zip(given.taken.split(batch_users), given.candidates.split(batch_users), strict=True)
    return torch.cat([model.match_pairs(model.users_of(t), torch.arange(len(t)), c) for t, c in parts])
