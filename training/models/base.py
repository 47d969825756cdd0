"""What every model answers, and what it is built from.

Legend: B batch, N item rows (PAD's included), M candidates, T moments, V content width, C trend channels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from features.encode import Batch


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


EXCLUDED = float("-inf")


@dataclass(frozen=True)
class Sizes:
    """Widths of what a model reads; part of the artifact's config."""

    num_items: int  # N
    content_width: int  # V
    trait_sizes: list[int] = field(default_factory=list)  # rows per user trait
    context_sizes: list[int] = field(default_factory=list)  # rows per context column
    channels: list[str] = field(default_factory=list)  # trend channels that can be asked for

    def as_dict(self) -> dict:
        return asdict(self)


class ModelError(ValueError):
    """A model cannot be built or fitted as asked; the text says why."""


class Model(nn.Module):
    """A model ranks the whole catalogue for histories that it has never seen.

    Subclasses state what they read: `channels` (item trends), `max_history` (newest events; None is
    all), `personal` (whether the history matters at all).
    """

    name: ClassVar[str]
    learned: ClassVar[bool] = False  # by gradient, as against counted or solved
    baseline: ClassVar[bool] = False  # what ours are judged against: measured and compared, never the gate's candidate
    personal: ClassVar[bool] = True
    retrieve: int | None = None  # how many of the best items its ranking rests on; None: on none but those ranked

    def __init__(self, params: dict, sizes: Sizes) -> None:
        super().__init__()
        self.params, self.sizes = params, sizes
        self.channels: tuple[str, ...] = ()
        self.max_history: int | None = None

    def scores(self, batch: Batch) -> Tensor:
        """(B, N) float32, higher is better; finite but for column 0, which nobody reads."""
        raise NotImplementedError

    def scores_of(self, batch: Batch, rows: Tensor) -> Tensor:
        """(B, M) scores of each request's own (B, M) item rows: those of `scores`, within rounding."""
        return self.scores(batch).gather(1, rows)

    @property
    def searchable(self) -> bool:
        """Whether an index can tell which items may come first: `factored` and `shortlist` answer."""
        return False

    def factored(self, batch: Batch) -> tuple[Factors, Tensor]:
        """What an index searches by, and the (T, C, N) log trends that the weights are of."""
        raise NotImplementedError

    def shortlist(self, batch: Batch, search: Search) -> tuple[Tensor, Tensor]:
        """The (B, M) item rows that `search` finds, and their scores as in `scores_of`."""
        raise NotImplementedError

    def freeze(self) -> None:
        """Compute once what no request changes. The weights must not change afterwards: for serving, not training."""

    def answers_cold(self) -> bool:
        """Whether traits or context personalise an answer without any history."""
        return False


class MatrixModel(Model):
    """A model that is counted or solved from a (users, N) matrix."""

    baseline = True

    def fit(self, matrix, seed: int) -> None:
        """Learn from a scipy CSR matrix of (users, N) interactions, all before the cut.

        Args:
            seed: of whatever begins at random.
        """
        raise NotImplementedError


def check_catalogue(name: str, num_items: int, max_items: int) -> None:
    """Refuse a catalogue whose square matrix would not fit.

    Raises:
        ModelError: with the memory that it would take.
    """
    if num_items > max_items:
        gigabytes = num_items**2 * 4 / 1e9
        raise ModelError(
            f"{name}: {num_items} items exceed max_items = {max_items}; its square matrix would take {gigabytes:.1f} GB"
        )


def history_sum(table: Tensor, batch: Batch) -> Tensor:
    """(B, N) sums of the rows of `table` (N, N) over each history."""
    return nn.functional.embedding_bag(batch.items, table, mode="sum", padding_idx=0)


def where_history(batch: Batch, personal: Tensor, fallback: Tensor) -> Tensor:
    """Personal scores (B, N) where there is a history, `fallback` (N,) where there is none."""
    has_history = (batch.items != 0).any(dim=1, keepdim=True)
    return torch.where(has_history, personal, fallback)
