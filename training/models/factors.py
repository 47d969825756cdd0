"""Scores that are inner products: what an index of the catalogue may search by.

Legend: Q questions, N item rows, M candidates, D width, C trend channels.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor


class Factors(NamedTuple):
    """score[q, j] = user[q] · item[j] + bias[j] + weights[q] · trends[moment[q], :, j]."""

    user: Tensor  # (Q, D)
    item: Tensor  # (N, D)
    bias: Tensor  # (N,)
    weights: Tensor  # (Q, C)

    def asked(self) -> Tensor:
        """(Q, D + 1 + C): what the item vectors of `offered` are multiplied with."""
        return torch.cat([self.user, torch.ones_like(self.user[:, :1]), self.weights], dim=1)

    def offered(self, trends: Tensor) -> Tensor:
        """(N, D + 1 + C): each item's vector, bias and (C, N) log trends of a moment."""
        return torch.cat([self.item, self.bias[:, None], trends.T.to(self.item.dtype)], dim=1)


Search = Callable[[Factors], Tensor]  # the (Q, M) item rows that each question is to be answered from
