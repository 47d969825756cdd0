"""NeuMF (He et al. 2017, section 3.4): one branch multiplies embeddings, the other has an MLP; each has its own.

Legend: B users of a batch, U users, N item rows (PAD's included), C candidates, D width, H hidden width.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from experiments.papers.protocol import Given, Training
from training import losses
from training.models.base import Sizes
from training.models.neural_cf import NeuralCF
from training.module import move_average, parameter_groups
from training.negative_sampling import NegativeSampler

STD = 0.1  # of embeddings before training, as Rendle et al. 2020 begin


class Product(nn.Module):
    """score = user · item + item bias + user bias, the user an embedding of its id: GMF with weights of one.

    Weights of its own for each dimension, as GMF has, would escape the pull on embeddings.
    """

    def __init__(self, given: Given, recipe: dict) -> None:
        super().__init__()
        users, items = given.taken.shape
        width = recipe["embedding_dim"]
        self.users = nn.Embedding(users, width + 1, sparse=True)  # the last is the user's bias
        self.items = nn.Parameter(torch.randn(items, width) * STD)
        self.item_bias = nn.Parameter(torch.zeros(items))
        self.bias = nn.Parameter(torch.zeros(1))
        nn.init.normal_(self.users.weight, std=STD)
        nn.init.zeros_(self.users.weight[:, -1])

    def user(self, rows: Tensor, read: Tensor) -> Tensor:
        """(B, D + 1) of users' (B,) rows; `read` (B, N), what is read of their sets, counts for nothing here."""
        return self.users(rows)

    def match(self, user: Tensor) -> Tensor:
        """(B, N) scores of all items."""
        return torch.addmm(self.item_bias, user[:, :-1], self.items.T) + user[:, -1:] + self.bias

    def match_own(self, user: Tensor, candidates: Tensor) -> Tensor:
        """(B, C) scores of each user's own candidates."""
        flat = torch.einsum("bd,bcd->bc", user[:, :-1], self.items[candidates])
        return flat + self.item_bias[candidates] + user[:, -1:] + self.bias


class Deep(Product):
    """Product + MLP([user, item]), where the user is its id and the items read of its set (Koren 2008, equation 15).

    The first layer is linear in the user and in the item, so that only the sum of both sides is formed for a pair.
    """

    def __init__(self, given: Given, recipe: dict) -> None:
        super().__init__(given, recipe)
        width, hidden = recipe["embedding_dim"], recipe["hidden_dim"]
        self.read = nn.Parameter(torch.randn_like(self.items) * STD**2)
        self.user_hidden = nn.Linear(width, hidden)
        self.item_hidden = nn.Linear(width, hidden, bias=False)
        last = nn.Linear(hidden // 2, 1, bias=False)
        nn.init.zeros_(last.weight)  # so that it begins as the product
        self.tail = nn.Sequential(nn.ReLU(), nn.Linear(hidden, hidden // 2), nn.ReLU(), last)

    def user(self, rows: Tensor, read: Tensor) -> Tensor:
        user = self.users(rows)
        count = read.sum(dim=1, keepdim=True).clamp(min=1)
        return torch.cat([user[:, :-1] + read @ self.read / count.sqrt(), user[:, -1:]], dim=1)

    def match(self, user: Tensor) -> Tensor:
        hidden = self.user_hidden(user[:, :-1])[:, None] + self.item_hidden(self.items)
        return super().match(user) + self.tail(hidden).squeeze(-1)

    def match_own(self, user: Tensor, candidates: Tensor) -> Tensor:
        hidden = self.user_hidden(user[:, :-1])[:, None] + self.item_hidden(self.items)[candidates]
        return super().match_own(user, candidates) + self.tail(hidden).squeeze(-1)


@torch.no_grad()
def score_neumf(branch: Product, given: Given, batch_users: int = 512) -> Tensor:
    """(U, C) scores of each user's candidates, from all that the user took."""
    parts = torch.arange(len(given.taken)).split(batch_users)
    return torch.cat([branch.match_own(branch.user(p, given.taken[p].float()), given.candidates[p]) for p in parts])


class SetNeuralCF(NeuralCF):
    """The network as it is, but that every event of a history counts the same."""

    def __init__(self, recipe: dict, num_items: int) -> None:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Initializing zero-element tensors")  # no trends, no weights
            super().__init__(recipe | {"num_heads": 1, "channels": [], "max_history": num_items}, Sizes(num_items, 0))

    def users_of(self, taken: Tensor) -> Tensor:
        """(B, D) users of (B, N) sets."""
        share = taken / taken.sum(dim=1, keepdim=True).clamp(min=1)
        # Dropped before they are summed, as the network drops events.
        pooled = self.dropout(share) @ self.read.weight * self.read.weight.shape[1] ** 0.5
        return self.norm(self.history.out(pooled))


def train_set_ncf(recipe: dict, seed: int) -> Training:
    """How the network is trained, for `two_fits`."""
    return lambda given, epochs: (
        partial(score_set_ncf, model) for model in trained_set_ncf(given, recipe, seed, epochs)
    )


def trained_set_ncf(given: Given, recipe: dict, seed: int, epochs: int) -> Iterator[SetNeuralCF]:
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
            set_ncf_loss(model, given.taken[users], sampler, recipe, generator).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            step += 1
            move_average(average, model, step, recipe["ema_decay"])
        yield average


def split(taken: Tensor, least: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """What is read of (B, N) sets, and what is to be foretold: no item is in both, so none foretells itself.

    In place of leaving out one item at a time: the network meets many pairs for one pass over a set. Each
    set's share to be read is uniform in [least, 1).
    """
    share = least + (1 - least) * torch.rand(len(taken), 1, generator=generator)
    read = taken & (torch.rand(taken.shape, generator=generator) < share)
    return read, taken & ~read


def set_ncf_loss(model: SetNeuralCF, taken: Tensor, sampler: NegativeSampler, recipe: dict, generator) -> Tensor:
    """Mean cross-entropy of the pairs to be foretold, each against sampled items that its user did not take.

    All users of a batch meet the same negatives, so that only the positives are scored pair by pair.
    """
    read, told = split(taken, recipe["least_read"], generator)
    user = model.users_of(read)
    drawn = sampler.draw(1, recipe["num_negatives"])[0]
    negatives = model.match(user, drawn).masked_fill(taken[:, drawn], losses.MASKED)
    # One sum for all positives of a user: they share it, and a row of negatives for each would be (P, M).
    others = torch.logsumexp(negatives - sampler.log_expected(drawn, len(drawn)), dim=1, keepdim=True)
    question, item = told.nonzero().T
    positive = model.match_pairs(user, question, item[:, None])[:, 0]
    each = losses.sampled_softmax(positive, others[question], torch.zeros(()))
    return each.sum() / max(1, len(each))


@torch.no_grad()
def score_set_ncf(model: SetNeuralCF, given: Given, batch_users: int = 512) -> Tensor:
    """(U, C) scores of each user's candidates, from all that the user took."""
    parts = zip(given.taken.split(batch_users), given.candidates.split(batch_users), strict=True)
    return torch.cat([model.match_pairs(model.users_of(t), torch.arange(len(t)), c) for t, c in parts])


def train_neumf(kind: type[Product], recipe: dict, seed: int) -> Training:
    """How a branch is trained, for `two_fits`."""
    return lambda given, epochs: (
        partial(score_neumf, branch) for branch in trained_neumf(kind, given, recipe, seed, epochs)
    )


def trained_neumf(kind: type[Product], given: Given, recipe: dict, seed: int, epochs: int) -> Iterator[Product]:
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
            neumf_loss(branch, given.taken, item_counts, users, recipe, generator).backward()
            for optimizer in optimizers:
                optimizer.step()
            step += 1
            move_average(average, branch, step, recipe["ema_decay"])
        yield average


def neumf_loss(branch: Product, taken: Tensor, item_counts: Tensor, users: Tensor, recipe: dict, generator) -> Tensor:
    """Logistic loss a positive, in place of `negatives` items drawn evenly for each: their mean over all draws.

    What is drawn may be of the user's own, as in Rendle et al. 2020. A branch that reads sets is asked of what it
    does not read, so that no item foretells itself.
    """
    own = taken[users].float()
    read, told = _parts(branch, taken[users], recipe, generator)
    scores = branch.match(branch.user(users, read))
    negative = functional.softplus(scores)
    drawn = recipe["num_negatives"] * own.sum(dim=1, keepdim=True) / (own.shape[1] - 1)
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
    met = (1 + recipe["num_negatives"]) * own.sum(dim=1)
    of_users = (met * branch.users(users).square().sum(dim=1)).sum()
    met = item_counts + recipe["num_negatives"] * item_counts.sum() / len(item_counts)
    of_items = (met * (branch.items.square().sum(dim=1) + branch.item_bias.square())).sum()
    batch = len(users) / num_users
    total = recipe["l2"] / 2 * (of_users + of_items * batch)
    if isinstance(branch, Deep):
        total = total + recipe["l2_read"] / 2 * branch.read.square().sum() * item_counts.sum() / num_users * batch
    return total
