"""The networks of the NCF comparison and their training: NeuMF's branches, and neural CF on sets of items.

He et al. 2017, section 3.4: NeuMF has one branch that multiplies embeddings and one with an MLP, each with its own
embeddings. The training follows Rendle et al. 2020.

Shapes: B users of a batch, U users, N item rows (including PAD's), C candidates, D embedding size.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from training import losses
from training.losses import NegativeSampler
from training.models.base import Sizes
from training.models.neural_cf import NeuralCF, NeuralCFHyperparameters
from training.module import parameter_groups, update_average

STD = 0.1  # of initial embeddings, as in Rendle et al. 2020


class RankingTask(NamedTuple):
    """What users took, and the candidates among which one more item of theirs is to be found."""

    taken: Tensor  # (U, N) bool
    candidates: Tensor  # (U, C) item rows: the positive first, then its negatives


class DotProduct(nn.Module):
    """score = user · item + item bias + user bias, where the user is an embedding of its id: GMF with weights of one.

    GMF's own weight per dimension is left out: it would escape the regularization of the embeddings.
    """

    def __init__(self, task: RankingTask, configuration: dict, seed: int) -> None:
        super().__init__()
        self.configuration, self.item_counts = configuration, task.taken.sum(dim=0)
        users, items = task.taken.shape
        width = configuration["embedding_dim"]
        self.users = nn.Embedding(users, width + 1, sparse=True)  # the last dimension is the user's bias
        self.items = nn.Parameter(torch.randn(items, width) * STD)
        self.item_bias = nn.Parameter(torch.zeros(items))
        self.bias = nn.Parameter(torch.zeros(1))
        nn.init.normal_(self.users.weight, std=STD)
        nn.init.zeros_(self.users.weight[:, -1])

    def score(self, rows: Tensor, history: Tensor) -> Tensor:
        """(B, N) scores of all items for the users of (B,) rows; the (B, N) item sets have no influence in this class."""
        return self.match(self.users(rows))

    def match(self, user: Tensor) -> Tensor:
        """(B, N) scores of all items for (B, D + 1) users."""
        return torch.addmm(self.item_bias, user[:, :-1], self.items.T) + user[:, -1:] + self.bias

    def optimizers(self) -> list[torch.optim.Optimizer]:
        rate = self.configuration["learning_rate"]
        shared = [value for name, value in self.named_parameters() if name != "users.weight"]
        user_rate = rate * self.configuration["user_rate_factor"]
        return [torch.optim.SparseAdam([self.users.weight], lr=user_rate), torch.optim.Adam(shared, lr=rate)]

    def loss(self, rows: Tensor, taken: Tensor, generator: torch.Generator) -> Tensor:
        """Mean logistic loss per positive, with the expectation over `num_negatives` uniform draws in place of the draws.

        A negative may be an item that the user took, as in Rendle et al. 2020.
        """
        history, targets = self.split(taken, generator)
        scores, count = self.score(rows, history), taken.sum(dim=1, keepdim=True)
        negative = functional.softplus(scores)
        draws = self.configuration["num_negatives"] * count / (taken.shape[1] - 1)
        loss = (targets * (negative - scores)).sum() + (draws * (1 - history) * negative)[:, 1:].sum()
        return (loss + self.penalty(rows, count[:, 0])) / taken.sum()

    def split(self, taken: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """(B, N) items that are read, and (B, N) weights of the items to predict."""
        return torch.zeros(taken.shape), taken.float()

    def penalty(self, rows: Tensor, count: Tensor) -> Tensor:
        """L2 of embeddings, weighted by how often users and items occur (Rendle et al. 2020); the share of one batch.

        Args:
            count: (B,) number of items that each user took.
        """
        negatives, item_counts = self.configuration["num_negatives"], self.item_counts
        of_users = ((1 + negatives) * count * self.users(rows).square().sum(dim=1)).sum()
        item_weight = item_counts + negatives * item_counts.sum() / len(item_counts)
        of_items = (item_weight * (self.items.square().sum(dim=1) + self.item_bias.square())).sum()
        return self.configuration["l2"] / 2 * (of_users + of_items * len(rows) / len(self.users.weight))


class DeepBranch(DotProduct):
    """Dot product + MLP([user, item]), where the user is its id and its items (SVD++: Koren 2008, equation 15).

    The first layer is linear in the user and in the item, so for a pair only the sum of both is formed. The branch
    predicts what it does not read, so that no item predicts itself.
    """

    def __init__(self, task: RankingTask, configuration: dict, seed: int) -> None:
        super().__init__(task, configuration, seed)
        width, hidden = configuration["embedding_dim"], configuration["hidden_dim"]
        self.read = nn.Parameter(torch.randn_like(self.items) * STD**2)
        self.user_hidden = nn.Linear(width, hidden)
        self.item_hidden = nn.Linear(width, hidden, bias=False)
        last = nn.Linear(hidden // 2, 1, bias=False)
        nn.init.zeros_(last.weight)  # so that training starts at the dot product
        self.tail = nn.Sequential(nn.ReLU(), nn.Linear(hidden, hidden // 2), nn.ReLU(), last)

    def score(self, rows: Tensor, history: Tensor) -> Tensor:
        user, history = self.users(rows), history.float()
        count = history.sum(dim=1, keepdim=True).clamp(min=1)
        user = torch.cat([user[:, :-1] + history @ self.read / count.sqrt(), user[:, -1:]], dim=1)
        hidden = self.user_hidden(user[:, :-1])[:, None] + self.item_hidden(self.items)
        return self.match(user) + self.tail(hidden).squeeze(-1)

    def split(self, taken: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        history, targets = split_sets(taken, self.configuration["min_history_share"], generator)
        # The items to predict stand for the whole set.
        weight = taken.sum(dim=1, keepdim=True) / targets.sum(dim=1, keepdim=True).clamp(min=1)
        return history.float(), targets * weight

    def penalty(self, rows: Tensor, count: Tensor) -> Tensor:
        of_history = self.configuration["l2_history"] / 2 * self.read.square().sum() * self.item_counts.sum()
        return super().penalty(rows, count) + of_history * len(rows) / len(self.users.weight)


class SetNeuralCF(NeuralCF):
    """The platform's neural CF, with every item of a history counting the same."""

    def __init__(self, task: RankingTask, configuration: dict, seed: int) -> None:
        num_items = task.taken.shape[1]
        fields = configuration | {"num_heads": 1, "channels": [], "max_history": num_items}
        # Without validation, since the paper's comparison has its own training and not the platform's parameters.
        hyperparameters = NeuralCFHyperparameters.model_construct(**fields)
        with warnings.catch_warnings():
            # Without item trends, their weights have no elements.
            warnings.filterwarnings("ignore", message="Initializing zero-element tensors")
            super().__init__(hyperparameters, Sizes(num_items, 0))
        self.configuration = configuration
        self.sampler = NegativeSampler(task.taken.sum(dim=0).numpy(), configuration["alpha"], seed)

    def users_of(self, history: Tensor) -> Tensor:
        """(B, D) users of (B, N) item sets."""
        share = history / history.sum(dim=1, keepdim=True).clamp(min=1)
        # Dropout comes before the sum, as the network drops events.
        weight = self.history_items.weight
        pooled = self.dropout(share) @ weight * weight.shape[1] ** 0.5
        return self.norm(self.history.out(pooled))

    def score(self, rows: Tensor, history: Tensor) -> Tensor:
        """(B, N) scores of all items for users of (B, N) item sets; the rows have no influence."""
        return self.match(self.users_of(history))

    def optimizers(self) -> list[torch.optim.Optimizer]:
        groups = parameter_groups(self, self.configuration["weight_decay"])
        return [torch.optim.AdamW(groups, lr=self.configuration["learning_rate"])]

    def loss(self, rows: Tensor, taken: Tensor, generator: torch.Generator) -> Tensor:
        """Mean cross-entropy of the pairs to predict, each against sampled items that its user did not take.

        All users of a batch share the negatives, so only the positives are scored pair by pair.
        """
        history, targets = split_sets(taken, self.configuration["min_history_share"], generator)
        user, drawn = self.users_of(history), self.sampler.draw(1, self.configuration["num_negatives"])[0]
        negatives = self.match(user, drawn).masked_fill(taken[:, drawn], losses.MASKED)
        # One sum for all positives of a user, instead of one row of negatives for each positive.
        others = torch.logsumexp(negatives - self.sampler.log_expected(drawn, len(drawn)), dim=1, keepdim=True)
        row, item = targets.nonzero().T
        positive = self.match_pairs(user, row, item[:, None])[:, 0]
        return losses.sampled_softmax(positive, others[row], torch.zeros(())).sum() / max(1, len(row))


def split_sets(taken: Tensor, min_share: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Split (B, N) item sets into what is read and what is predicted, so that no item predicts itself.

    The share of each set that is read is uniform in [min_share, 1). Compared with leaving out one item at a time, many
    pairs are trained in one pass over a set.
    """
    share = min_share + (1 - min_share) * torch.rand(len(taken), 1, generator=generator)
    history = taken & (torch.rand(taken.shape, generator=generator) < share)
    return history, taken & ~history


Network = DotProduct | SetNeuralCF


@torch.no_grad()
def score_candidates(network: Network, task: RankingTask, batch_size: int = 512) -> Tensor:
    """(U, C) scores of each user's candidates, from all that the user took."""
    parts = torch.arange(len(task.taken)).split(batch_size)
    return torch.cat([network.score(rows, task.taken[rows]).gather(1, task.candidates[rows]) for rows in parts])


def train(kind: type[Network], task: RankingTask, configuration: dict, seed: int, epochs: int) -> Iterator[Network]:
    """Train on all pairs and yield the network with averaged weights after each epoch, always the same object."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    network = kind(task, configuration, seed)
    optimizers = network.optimizers()
    average, step = copy.deepcopy(network).requires_grad_(False).eval(), 0
    for _ in range(epochs):
        for rows in torch.randperm(len(task.taken), generator=generator).split(configuration["batch_size"]):
            network.zero_grad()
            network.loss(rows, task.taken[rows], generator).backward()
            if isinstance(network, SetNeuralCF):
                torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            for optimizer in optimizers:
                optimizer.step()
            step += 1
            update_average(average, network, step, configuration["ema_decay"])
        yield average
