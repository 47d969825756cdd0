"""Train a network on sets of items: part of a user's set is read, the rest is what it should foretell.

Legend: U users, B users of a batch, N item rows (PAD's included), C candidates.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor

from experiments.papers.given_negatives import Given
from experiments.papers.set_history import SetNeuralCF
from experiments.papers.two_fits import Training
from training import losses
from training.module import move_average, parameter_groups
from training.negatives import NegativeSampler


def training(recipe: dict, seed: int) -> Training:
    """How the network is trained, for `two_fits`."""
    return lambda given, epochs: (partial(score, model) for model in trained(given, recipe, seed, epochs))


def trained(given: Given, recipe: dict, seed: int, epochs: int) -> Iterator[SetNeuralCF]:
    """The network with averaged weights after each epoch on all pairs of `given.taken`; the same object each time."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    model = SetNeuralCF(recipe, given.taken.shape[1])
    average, step = copy.deepcopy(model).requires_grad_(False).eval(), 0
    sampler = NegativeSampler(given.taken.sum(dim=0).numpy(), recipe["alpha"], seed)
    optimizer = torch.optim.AdamW(parameter_groups(model, recipe["weight_decay"]), lr=recipe["learning_rate"])
    for _ in range(epochs):
        model.train()
        for users in torch.randperm(len(given.taken), generator=generator).split(recipe["batch_users"]):
            optimizer.zero_grad()
            loss(model, given.taken[users], sampler, recipe, generator).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            step += 1
            move_average(average, model, step, recipe["average_decay"])
        yield average


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
