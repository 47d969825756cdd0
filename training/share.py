"""The part of a training batch that one of several processes computes.

Legend: R histories, Q questions, P targets.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from training.datamodule import TrainBatch
from training.models.query import Query


def share(batch: TrainBatch, rank: int, size: int) -> TrainBatch:
    """Every `size`-th history from the `rank`-th on, the questions on it and their targets.

    Weights stay those of the whole batch, so that the losses of all shares add up to its loss, however uneven the
    shares are. Where there are more processes than histories, the last ones take the first history at weight 0:
    every layer then has a gradient to bring to the others, and it is zero.
    """
    if size == 1:
        return batch
    own = torch.zeros(len(batch.query.items), dtype=torch.bool)
    own[rank::size] = True
    spare = not own.any()
    own[0] |= spare
    asked = own[batch.query.row]
    wanted, seen = asked[batch.question], asked[batch.seen[0]]
    return replace(
        batch,
        query=_of_histories(batch.query, own, asked),
        question=_place(asked)[batch.question[wanted]],
        item=batch.item[wanted],
        weight=batch.weight[wanted] * (not spare),
        seen=torch.stack([_place(asked)[batch.seen[0, seen]], batch.seen[1, seen]]),
        drawn=batch.drawn[wanted],
    )


def _of_histories(query: Query, own: Tensor, asked: Tensor) -> Query:
    """The histories marked in `own` (R,), and of the questions those marked in `asked` (Q,)."""
    by_question = ("position", "length", "time", "traits", "context", "moment")
    return replace(
        query,
        items=query.items[own],
        item_times=query.item_times[own],
        row=_place(own)[query.row[asked]],
        **{name: getattr(query, name)[asked] for name in by_question},
    )


def _place(kept: Tensor) -> Tensor:
    """Where each marked element stands among the marked ones."""
    return kept.cumsum(0) - 1
