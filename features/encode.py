"""Encode histories and request context as tensors: the same functions in training, evaluation and serving.

Legend: B batch, L history, N item rows (including PAD's), T moments, C trend channels, F user traits,
K context columns, S seen pairs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from features.ragged import pad_left, row_numbers
from features.vocabulary import PAD


@dataclass
class Batch:
    """The input of every model. Histories are right-aligned: the latest event is in the last column."""

    items: Tensor  # (B, L) int64 item rows, PAD on the left
    item_times: Tensor  # (B, L) int64 microseconds, 0 at PAD
    time: Tensor  # (B,) int64 microseconds: the time of the request
    traits: Tensor  # (B, F) int64 rows of user traits, 0 unknown
    context: Tensor  # (B, K) int64 rows of request context, 0 unknown
    trends: Tensor  # (T, N, C) float32 item trends
    moment: Tensor  # (B,) int64: the row of `trends` that holds at `time`
    seen: Tensor  # (2, S) int64: (row of the batch, item row) of everything in the history
    log_trends: Tensor | None = None  # (T, C, N) `training.models.query.log_trends` of `trends`, if precomputed

    def __len__(self) -> int:
        return len(self.time)

    def to(self, device: torch.device | str) -> Batch:
        moved = {name: tensor.to(device) for name, tensor in vars(self).items() if tensor is not None}
        return Batch(**moved)


def resolve_history(events: Iterable[tuple[str, int]], time_us: int, repeats: str) -> list[tuple[str, int]]:
    """Order and deduplicate a live history of (item_id, microseconds), in any order, as ingest does with a dataset.

    Events at or after `time_us` are dropped. `repeats` is `ingest.repeats` at the time of training: first, last or all.
    """
    ordered = sorted((event_time, item) for item, event_time in events if event_time < time_us)
    if repeats == "all":
        return [(item, event_time) for event_time, item in ordered]
    kept: dict[str, int] = {}
    for event_time, item in ordered if repeats == "first" else reversed(ordered):
        kept.setdefault(item, event_time)
    resolved = sorted((event_time, item) for item, event_time in kept.items())
    return [(item, event_time) for event_time, item in resolved]


def encode_values(values: Mapping[str, object], encoders: Sequence[dict]) -> list[int]:
    """Encode one user's traits or one request's context, in the order of `encoders`; 0 where unknown.

    Encoders are from `features.fit.fit_encoders`: {"column", "values": [...]} or {"column", "edges": [...]}.
    """
    return [_encode_value(values.get(encoder["column"]), encoder) for encoder in encoders]


def _encode_value(value: object, encoder: dict) -> int:
    if value is None or value != value:
        return 0
    if "values" in encoder:
        table = encoder["values"]
        text = str(value)
        return table.index(text) + 1 if text in table else 0
    try:
        number = float(str(value))
    except ValueError:
        return 0
    return int(np.searchsorted(encoder["edges"], number, side="right")) + 1


def drop_unknown(
    items: np.ndarray, times: np.ndarray, lengths: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Drop items outside the vocabulary from ragged histories. Returns flat items, flat times and (B,) lengths."""
    kept = items != PAD
    if kept.all():
        return items, times, lengths
    return items[kept], times[kept], np.bincount(row_numbers(lengths)[kept], minlength=len(lengths))


def make_batch(
    flat_items: np.ndarray,
    flat_times: np.ndarray,
    lengths: np.ndarray,
    time_us: np.ndarray,
    traits: np.ndarray,
    context: np.ndarray,
    trends: np.ndarray,
    moment: np.ndarray,
    max_history: int | None,
) -> Batch:
    """Combine ragged histories and their context into one Batch.

    Args:
        flat_items: item rows of all histories one after the other, oldest first, without PAD.
        flat_times: their event times, microseconds.
        lengths: (B,) number of events of each history.
        time_us, traits (B, F), context (B, K), trends (T, N, C), moment (B,): as in `Batch`.
        max_history: how many of the newest events `items` keeps, and its width L even if all histories are shorter.
            None keeps all, and L is the longest history. `seen` always keeps all.
    """
    width = max_history or max(1, int(lengths.max(initial=0)))
    items, item_times = pad_left((flat_items, flat_times), lengths, width)
    return Batch(
        items=torch.from_numpy(items),
        item_times=torch.from_numpy(item_times),
        time=torch.from_numpy(np.asarray(time_us, dtype=np.int64)),
        traits=torch.from_numpy(np.ascontiguousarray(traits, dtype=np.int64)),
        context=torch.from_numpy(np.ascontiguousarray(context, dtype=np.int64)),
        trends=torch.from_numpy(np.require(trends, requirements=["C", "W"])),
        moment=torch.from_numpy(np.asarray(moment, dtype=np.int64)),
        seen=torch.from_numpy(np.stack([row_numbers(lengths), flat_items]).astype(np.int64)),
    )
