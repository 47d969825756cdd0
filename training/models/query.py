"""The input of a network: histories, and queries on them, each about one moment.

In training one encoded history serves many queries (each of its prefixes, at several moments), in serving one.

Legend: B histories, L length, Q queries, F user traits, K context columns, T moments, C trend channels,
N item rows (PAD's included).
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from data.columns import DAY, HOUR, MICROSECONDS
from features.encode import Batch
from features.vocabulary import PAD

NUM_BUCKETS = 32  # of a base-2 scale; row 0 is "no such event"
BOUNDS = 2 ** torch.arange(NUM_BUCKETS - 1) - 1  # the least whole number of each row from 1 on
PRIOR_COUNT = 0.5  # keeps the logarithm of an item that nobody took finite


@dataclass
class Query:
    """Histories, left-aligned so that a position does not depend on padding, and the queries on them."""

    items: Tensor  # (B, L) int64 item rows, PAD on the right
    item_times: Tensor  # (B, L) int64 microseconds, 0 at PAD
    row: Tensor  # (Q,) int64: the history that each query is about
    position: Tensor  # (Q,) int64: how many events of that history are visible
    length: Tensor  # (Q,) int64: how many events the user has, also those before the history's first
    time: Tensor  # (Q,) int64 microseconds: the moment of the query
    traits: Tensor  # (Q, F) int64
    context: Tensor  # (Q, K) int64
    trends: Tensor  # (T, C, N) float: see `log_trends`
    moment: Tensor  # (Q,) int64: the row of `trends` that is valid then

    def __len__(self) -> int:
        return len(self.time)

    def to(self, device: torch.device | str) -> Query:
        return Query(**{field.name: getattr(self, field.name).to(device) for field in fields(self)})

    @classmethod
    def of(cls, batch: Batch) -> Query:
        """One query per row of a Batch: everything that it holds is visible."""
        num_rows, width = batch.items.shape
        visible = (batch.items != PAD).sum(dim=1)
        source = torch.arange(width, device=batch.items.device) + (width - visible)[:, None]
        inside = source < width
        source = source.clamp(max=width - 1)
        return cls(
            items=batch.items.gather(1, source) * inside,
            item_times=batch.item_times.gather(1, source) * inside,
            row=torch.arange(num_rows, device=batch.items.device),
            position=visible,
            length=torch.bincount(batch.seen[0], minlength=num_rows),
            time=batch.time,
            traits=batch.traits,
            context=batch.context,
            trends=log_trends(batch.trends) if batch.log_trends is None else batch.log_trends,
            moment=batch.moment,
        )

    @property
    def one_per_history(self) -> bool:
        """Whether query i is the only one on history i, as in serving."""
        return len(self) == len(self.items) and torch.equal(self.row, torch.arange(len(self), device=self.row.device))

    @property
    def since(self) -> Tensor:
        """(Q,) int64 microseconds since the last visible event, -1 where there is none."""
        last = self.item_times[self.row, (self.position - 1).clamp(min=0)]
        return torch.where(self.position > 0, self.time - last, -1)

    @property
    def hour(self) -> Tensor:
        """(Q,) hour of the day, UTC."""
        return self.time // HOUR % 24

    @property
    def weekday(self) -> Tensor:
        """(Q,) 0 is Monday, UTC."""
        return (self.time // DAY + 3) % 7  # 1970 began on a Thursday

    @property
    def gaps(self) -> Tensor:
        """(B, L) microseconds between an event and the one before it, -1 at the first."""
        gaps = self.item_times.diff(dim=1).clamp(min=0)
        return torch.cat([gaps.new_full((len(gaps), 1), -1), gaps], dim=1)


def log_trends(trends: Tensor) -> Tensor:
    """(T, N, C) counts as (T, C, N) logarithms relative to the mean item of their moment.

    Relative, so that a growing platform does not leave the range that training has seen.
    """
    counts = trends.transpose(1, 2).float()
    means = counts.mean(dim=2, keepdim=True)
    return torch.log((counts + PRIOR_COUNT) / (means + PRIOR_COUNT))


def time_bucket(duration_us: Tensor) -> Tensor:
    """Rows of durations on a base-2 scale of seconds; negative is row 0."""
    return count_bucket(torch.div(duration_us, MICROSECONDS, rounding_mode="floor"))


def count_bucket(count: Tensor) -> Tensor:
    """Rows of whole numbers on a base-2 scale: -1 -> 0, 0 -> 1, 1..2 -> 2, 3..6 -> 3, 7..14 -> 4, ..."""
    return torch.bucketize(count, BOUNDS.to(count.device), right=True)
