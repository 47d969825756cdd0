"""Train a branch of NeuMF on whom took what, by the mean over all draws of sampled negatives.

Legend: B users of a batch, N item rows (PAD's included).
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

from experiments.papers.given_negatives import Given
from experiments.papers.ncf_fit import split
from experiments.papers.neumf import Deep, Product, score
from experiments.papers.two_fits import Training
from training.module import move_average


def training(kind: type[Product], recipe: dict, seed: int) -> Training:
    """How a branch is trained, for `two_fits`."""
    return lambda given, epochs: (partial(score, branch) for branch in trained(kind, given, recipe, seed, epochs))


def trained(kind: type[Product], given: Given, recipe: dict, seed: int, epochs: int) -> Iterator[Product]:
    """The branch with averaged weights after each epoch on all pairs of `given.taken`; the same object each time."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    branch = kind(given, recipe)
    average, step = copy.deepcopy(branch).requires_grad_(False), 0
    by_id = torch.optim.SparseAdam([branch.users.weight], lr=recipe["learning_rate"] * recipe["users_faster"])
    shared = [value for name, value in branch.named_parameters() if name != "users.weight"]
    optimizers = [by_id, torch.optim.Adam(shared, lr=recipe["learning_rate"])]
    item_counts = given.taken.sum(dim=0)
    for _ in range(epochs):
        for users in torch.randperm(len(given.taken), generator=generator).split(recipe["batch_users"]):
            for optimizer in optimizers:
                optimizer.zero_grad()
            loss(branch, given.taken, item_counts, users, recipe, generator).backward()
            for optimizer in optimizers:
                optimizer.step()
            step += 1
            move_average(average, branch, step, recipe["average_decay"])
        yield average


def loss(branch: Product, taken: Tensor, item_counts: Tensor, users: Tensor, recipe: dict, generator) -> Tensor:
    """Logistic loss a positive, in place of `negatives` items drawn evenly for each: their mean over all draws.

    What is drawn may be of the user's own, as in Rendle et al. 2020. A branch that reads sets is asked of what it
    does not read, so that no item foretells itself.
    """
    own = taken[users].float()
    read, told = _parts(branch, taken[users], recipe, generator)
    scores = branch.match(branch.user(users, read))
    negative = functional.softplus(scores)
    drawn = recipe["negatives"] * own.sum(dim=1, keepdim=True) / (own.shape[1] - 1)
    of_cells = (told * (negative - scores)).sum() + (drawn * (1 - read) * negative)[:, 1:].sum()
    return (of_cells + pull(branch, own, item_counts, users, recipe, len(taken))) / own.sum()


def _parts(branch: Product, taken: Tensor, recipe: dict, generator) -> tuple[Tensor, Tensor]:
    """(B, N) what is read, and (B, N) weights of what is to be foretold, which stand for the whole set."""
    if not isinstance(branch, Deep):
        return torch.zeros(taken.shape), taken.float()
    read, told = split(taken, recipe["least_read"], generator)
    share = taken.sum(dim=1, keepdim=True) / told.sum(dim=1, keepdim=True).clamp(min=1)
    return read.float(), told * share


def pull(branch: Product, own: Tensor, item_counts: Tensor, users: Tensor, recipe: dict, num_users: int) -> Tensor:
    """L2 of embeddings, as often as their users and items are met, as in Rendle et al. 2020; of a batch of users."""
    met = (1 + recipe["negatives"]) * own.sum(dim=1)
    of_users = (met * branch.users(users).square().sum(dim=1)).sum()
    met = item_counts + recipe["negatives"] * item_counts.sum() / len(item_counts)
    of_items = (met * (branch.items.square().sum(dim=1) + branch.item_bias.square())).sum()
    batch = len(users) / num_users
    total = recipe["l2"] / 2 * (of_users + of_items * batch)
    if isinstance(branch, Deep):
        total = total + recipe["l2_read"] / 2 * branch.read.square().sum() * item_counts.sum() / num_users * batch
    return total
