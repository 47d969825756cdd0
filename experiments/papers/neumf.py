"""NeuMF (He et al. 2017, section 3.4): one branch multiplies embeddings, the other has an MLP; each has its own.

Legend: B users of a batch, U users, N item rows (PAD's included), C candidates, D width, H hidden width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from experiments.papers.given_negatives import Given

STD = 0.1  # of embeddings before training, as Rendle et al. 2020 begin


class Product(nn.Module):
    """score = user · item + item bias + user bias, the user an embedding of its id: GMF with weights of one.

    Weights of its own for each dimension, as GMF has, would escape the pull on embeddings.
    """

    def __init__(self, given: Given, recipe: dict) -> None:
        super().__init__()
        users, items = given.taken.shape
        width = recipe["width"]
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
        width, hidden = recipe["width"], recipe["hidden"]
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
def score(branch: Product, given: Given, batch_users: int = 512) -> Tensor:
    """(U, C) scores of each user's candidates, from all that the user took."""
    parts = torch.arange(len(given.taken)).split(batch_users)
    return torch.cat([branch.match_own(branch.user(p, given.taken[p].float()), given.candidates[p]) for p in parts])
