"""The networks of the NCF comparison and their training: NeuMF's branches, and neural CF on sets of items.

He et al. 2017, section 3.4: NeuMF has one branch that multiplies embeddings and one with an MLP, each with its own
embeddings. The training follows Rendle et al. 2020.

Shapes: B users of a batch, U users, N item rows (including PAD's), C candidates, D embedding size, P positives,
M negatives.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from experiments.papers.protocol import RankingTask, Training
from training import losses
from training.losses import NegativeSampler
from training.models.base import Sizes
from training.models.neural_cf import NeuralCF, NeuralCFHyperparameters
from training.module import parameter_groups, update_average

STD = 0.1  # of initial embeddings, as in Rendle et al. 2020


class DotProduct(nn.Module):
    """score = user · item + item bias + user bias, where the user is an embedding of its id: GMF with weights of one.

    GMF's own weight per dimension is left out: it would escape the regularization of the embeddings.
    """

    def __init__(self, task: RankingTask, configuration: dict) -> None:
        super().__init__()
        users, items = task.taken.shape
        width = configuration["embedding_dim"]
        self.users = nn.Embedding(users, width + 1, sparse=True)  # the last dimension is the user's bias
        self.items = nn.Parameter(torch.randn(items, width) * STD)
        self.item_bias = nn.Parameter(torch.zeros(items))
        self.bias = nn.Parameter(torch.zeros(1))
        nn.init.normal_(self.users.weight, std=STD)
        nn.init.zeros_(self.users.weight[:, -1])

    def user(self, rows: Tensor, history: Tensor) -> Tensor:
        """(B, D + 1) users of (B,) rows; the (B, N) item sets have no influence here."""
        return self.users(rows)

    def match(self, user: Tensor) -> Tensor:
        """(B, N) scores of all items."""
        return torch.addmm(self.item_bias, user[:, :-1], self.items.T) + user[:, -1:] + self.bias

    def match_own(self, user: Tensor, candidates: Tensor) -> Tensor:
        """(B, C) scores of each user's own candidates."""
        products = torch.einsum("bd,bcd->bc", user[:, :-1], self.items[candidates])
        return products + self.item_bias[candidates] + user[:, -1:] + self.bias


class DeepBranch(DotProduct):
    """Dot product + MLP([user, item]), where the user is its id and its items (SVD++: Koren 2008, equation 15).

    The first layer is linear in the user and in the item, so for a pair only the sum of both is formed.
    """

    def __init__(self, task: RankingTask, configuration: dict) -> None:
        super().__init__(task, configuration)
        width, hidden = configuration["embedding_dim"], configuration["hidden_dim"]
        self.read = nn.Parameter(torch.randn_like(self.items) * STD**2)
        self.user_hidden = nn.Linear(width, hidden)
        self.item_hidden = nn.Linear(width, hidden, bias=False)
        last = nn.Linear(hidden // 2, 1, bias=False)
        nn.init.zeros_(last.weight)  # so that training starts at the dot product
        self.tail = nn.Sequential(nn.ReLU(), nn.Linear(hidden, hidden // 2), nn.ReLU(), last)

    def user(self, rows: Tensor, history: Tensor) -> Tensor:
        user = self.users(rows)
        count = history.sum(dim=1, keepdim=True).clamp(min=1)
        return torch.cat([user[:, :-1] + history @ self.read / count.sqrt(), user[:, -1:]], dim=1)

    def match(self, user: Tensor) -> Tensor:
        hidden = self.user_hidden(user[:, :-1])[:, None] + self.item_hidden(self.items)
        return super().match(user) + self.tail(hidden).squeeze(-1)

    def match_own(self, user: Tensor, candidates: Tensor) -> Tensor:
        hidden = self.user_hidden(user[:, :-1])[:, None] + self.item_hidden(self.items)[candidates]
        return super().match_own(user, candidates) + self.tail(hidden).squeeze(-1)


def branch_training(kind: type[DotProduct], configuration: dict, seed: int) -> Training:
    """The training of one NeuMF branch, for `fit_and_score`."""
    return lambda task, epochs: (
        partial(score_branch, branch) for branch in train_branch(kind, task, configuration, seed, epochs)
    )


@torch.no_grad()
def score_branch(branch: DotProduct, task: RankingTask, batch_size: int = 512) -> Tensor:
    """(U, C) scores of each user's candidates, from all that the user took."""
    parts = torch.arange(len(task.taken)).split(batch_size)
    return torch.cat([branch.match_own(branch.user(p, task.taken[p].float()), task.candidates[p]) for p in parts])


def train_branch(
    kind: type[DotProduct], task: RankingTask, configuration: dict, seed: int, epochs: int
) -> Iterator[DotProduct]:
    """Train on all pairs of `task.taken` and yield the branch with averaged weights after each epoch, always one object."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    branch = kind(task, configuration)
    average, step = copy.deepcopy(branch).requires_grad_(False), 0
    rate = configuration["learning_rate"]
    user_optimizer = torch.optim.SparseAdam([branch.users.weight], lr=rate * configuration["user_rate_factor"])
    shared = [value for name, value in branch.named_parameters() if name != "users.weight"]
    optimizers = [user_optimizer, torch.optim.Adam(shared, lr=rate)]
    item_counts = task.taken.sum(dim=0)
    for _ in range(epochs):
        for users in torch.randperm(len(task.taken), generator=generator).split(configuration["batch_size"]):
            for optimizer in optimizers:
                optimizer.zero_grad()
            branch_loss(branch, task.taken, item_counts, users, configuration, generator).backward()
            for optimizer in optimizers:
                optimizer.step()
            step += 1
            update_average(average, branch, step, configuration["ema_decay"])
        yield average


def branch_loss(
    branch: DotProduct, taken: Tensor, item_counts: Tensor, users: Tensor, configuration: dict, generator
) -> Tensor:
    """Mean logistic loss per positive, with the expectation over `num_negatives` uniform draws in place of the draws.

    A negative may be an item that the user took, as in Rendle et al. 2020. A branch that reads item sets predicts what
    it does not read, so that no item predicts itself.
    """
    own = taken[users].float()
    history, targets = _history_and_targets(branch, taken[users], configuration, generator)
    scores = branch.match(branch.user(users, history))
    negative = functional.softplus(scores)
    draws = configuration["num_negatives"] * own.sum(dim=1, keepdim=True) / (own.shape[1] - 1)
    loss = (targets * (negative - scores)).sum() + (draws * (1 - history) * negative)[:, 1:].sum()
    return (loss + _regularization(branch, own, item_counts, users, configuration, len(taken))) / own.sum()


def _history_and_targets(branch: DotProduct, taken: Tensor, configuration: dict, generator) -> tuple[Tensor, Tensor]:
    """(B, N) items that are read, and (B, N) weights of the items to predict, which stand for the whole set."""
    if not isinstance(branch, DeepBranch):
        return torch.zeros(taken.shape), taken.float()
    history, targets = split_sets(taken, configuration["min_history_share"], generator)
    weight = taken.sum(dim=1, keepdim=True) / targets.sum(dim=1, keepdim=True).clamp(min=1)
    return history.float(), targets * weight


def _regularization(
    branch: DotProduct, own: Tensor, item_counts: Tensor, users: Tensor, configuration: dict, num_users: int
) -> Tensor:
    """L2 of embeddings, weighted by how often users and items occur (Rendle et al. 2020); the share of one batch."""
    negatives = configuration["num_negatives"]
    user_weight = (1 + negatives) * own.sum(dim=1)
    user_penalty = (user_weight * branch.users(users).square().sum(dim=1)).sum()
    item_weight = item_counts + negatives * item_counts.sum() / len(item_counts)
    item_penalty = (item_weight * (branch.items.square().sum(dim=1) + branch.item_bias.square())).sum()
    batch = len(users) / num_users
    total = configuration["l2"] / 2 * (user_penalty + item_penalty * batch)
    if isinstance(branch, DeepBranch):
        history_penalty = configuration["l2_history"] / 2 * branch.read.square().sum() * item_counts.sum()
        total = total + history_penalty / num_users * batch
    return total


class SetNeuralCF(NeuralCF):
    """The platform's neural CF, with every item of a history counting the same."""

    def __init__(self, configuration: dict, num_items: int) -> None:
        fields = configuration | {"num_heads": 1, "channels": [], "max_history": num_items}
        # Without validation, since the paper's comparison has its own training and not the platform's parameters.
        hyperparameters = NeuralCFHyperparameters.model_construct(**fields)
        with warnings.catch_warnings():
            # Without item trends, their weights have no elements.
            warnings.filterwarnings("ignore", message="Initializing zero-element tensors")
            super().__init__(hyperparameters, Sizes(num_items, 0))

    def users_of(self, taken: Tensor) -> Tensor:
        """(B, D) users of (B, N) item sets."""
        share = taken / taken.sum(dim=1, keepdim=True).clamp(min=1)
        # Dropout comes before the sum, as the network drops events.
        weight = self.history_items.weight
        pooled = self.dropout(share) @ weight * weight.shape[1] ** 0.5
        return self.norm(self.history.out(pooled))


def set_ncf_training(configuration: dict, seed: int) -> Training:
    """The training of neural CF on sets, for `fit_and_score`."""
    return lambda task, epochs: (
        partial(score_set_ncf, model) for model in train_set_ncf(task, configuration, seed, epochs)
    )


@torch.no_grad()
def score_set_ncf(model: SetNeuralCF, task: RankingTask, batch_size: int = 512) -> Tensor:
    """(U, C) scores of each user's candidates, from all that the user took."""
    parts = zip(task.taken.split(batch_size), task.candidates.split(batch_size), strict=True)
    return torch.cat([model.match_pairs(model.users_of(t), torch.arange(len(t)), c) for t, c in parts])


def train_set_ncf(task: RankingTask, configuration: dict, seed: int, epochs: int) -> Iterator[SetNeuralCF]:
    """Train on all pairs of `task.taken` and yield the model with averaged weights after each epoch, always one object."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    model = SetNeuralCF(configuration, task.taken.shape[1])
    average, step = copy.deepcopy(model).requires_grad_(False).eval(), 0
    sampler = NegativeSampler(task.taken.sum(dim=0).numpy(), configuration["alpha"], seed)
    groups = parameter_groups(model, configuration["weight_decay"])
    optimizer = torch.optim.AdamW(groups, lr=configuration["learning_rate"])
    for _ in range(epochs):
        model.train()
        for users in torch.randperm(len(task.taken), generator=generator).split(configuration["batch_size"]):
            optimizer.zero_grad()
            set_ncf_loss(model, task.taken[users], sampler, configuration, generator).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            step += 1
            update_average(average, model, step, configuration["ema_decay"])
        yield average


def set_ncf_loss(model: SetNeuralCF, taken: Tensor, sampler: NegativeSampler, configuration: dict, generator) -> Tensor:
    """Mean cross-entropy of the pairs to predict, each against sampled items that its user did not take.

    All users of a batch share the negatives, so only the positives are scored pair by pair.
    """
    history, targets = split_sets(taken, configuration["min_history_share"], generator)
    user = model.users_of(history)
    drawn = sampler.draw(1, configuration["num_negatives"])[0]
    negatives = model.match(user, drawn).masked_fill(taken[:, drawn], losses.MASKED)
    # One sum for all positives of a user: a row of negatives for each would be (P, M).
    others = torch.logsumexp(negatives - sampler.log_expected(drawn, len(drawn)), dim=1, keepdim=True)
    row, item = targets.nonzero().T
    positive = model.match_pairs(user, row, item[:, None])[:, 0]
    each = losses.sampled_softmax(positive, others[row], torch.zeros(()))
    return each.sum() / max(1, len(each))


def split_sets(taken: Tensor, min_share: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Split (B, N) item sets into what is read and what is predicted, so that no item predicts itself.

    The share of each set that is read is uniform in [min_share, 1). Compared with leaving out one item at a time, many
    pairs are trained in one pass over a set.
    """
    share = min_share + (1 - min_share) * torch.rand(len(taken), 1, generator=generator)
    history = taken & (torch.rand(taken.shape, generator=generator) < share)
    return history, taken & ~history
