"""One history (and its context) to tensors: the same function in training, evaluation and serving.

Legend: B batch, L history, N item rows (PAD's included), T moments, C trend channels, F user traits,
K context columns, S seen pairs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from features.vocabulary import PAD


@dataclass
class Batch:
    """What every model reads. Histories are right-aligned: the latest event is in the last column."""

    items: Tensor  # (B, L) int64 item rows, PAD on the left
    item_times: Tensor  # (B, L) int64 microseconds, 0 at PAD
    time: Tensor  # (B,) int64 microseconds: the moment asked about
    traits: Tensor  # (B, F) int64 rows of user traits, 0 unknown
    context: Tensor  # (B, K) int64 rows of request context, 0 unknown
    trends: Tensor  # (T, N, C) float32 item trends
    moment: Tensor  # (B,) int64: the row of `trends` that holds at `time`
    seen: Tensor  # (2, S) int64: (row of the batch, item row) of everything in the history
    log_trends: Tensor | None = None  # (T, C, N) `training.models.query.log_trends` of `trends`, where they are kept

    def __len__(self) -> int:
        return len(self.time)

    def to(self, device: torch.device | str) -> Batch:
        moved = {name: part.to(device) for name, part in vars(self).items() if part is not None}
        return Batch(**moved)


def resolve_history(events: Iterable[tuple[str, int]], time_us: int, repeats: str) -> list[tuple[str, int]]:
    """A live history as ingest would have kept it: strictly before the moment, in time order, repeats by rule.

    Args:
        events: (item_id, event_time in microseconds), in any order.
        time_us: the moment asked about; what is not strictly before it is dropped.
        repeats: `first`, `last` or `all`, as `ingest.repeats` was when the model was trained.
    """
    ordered = sorted(((moment, item) for item, moment in events if moment < time_us))
    if repeats == "all":
        return [(item, moment) for moment, item in ordered]
    kept: dict[str, int] = {}
    for moment, item in ordered if repeats == "first" else reversed(ordered):
        kept.setdefault(item, moment)
    resolved = sorted((moment, item) for item, moment in kept.items())
    return [(item, moment) for moment, item in resolved]


def pad_left(flats: Sequence[np.ndarray], lengths: np.ndarray, width: int) -> list[np.ndarray]:
    """(B, width) rows of each ragged array, right-aligned; the newest `width` of a longer row are kept."""
    column = np.arange(width)
    inside = column >= (width - lengths)[:, None]
    source = (np.cumsum(lengths)[:, None] - width + column)[inside]
    padded = [np.zeros((len(lengths), width), dtype=flat.dtype) for flat in flats]
    for rows, flat in zip(padded, flats, strict=True):
        rows[inside] = flat[source]
    return padded


def trait_row(values: Mapping[str, object], encoders: Sequence[dict]) -> list[int]:
    """Rows of one user's traits or one request's context, in the order of `encoders`; 0 where unknown.

    Args:
        values: column name -> value, as stated.
        encoders: from `features.attributes.fit`: {"column", "values": [...]} or {"column", "edges": [...]}.
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


def assemble(
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
    """Ragged histories to one Batch.

    Args:
        flat_items: item rows of all histories one after the other, oldest first, without PAD.
        flat_times: their event times, microseconds.
        lengths: (B,) how many of them each history holds.
        time_us, traits (B, F), context (B, K), trends (T, N, C), moment (B,): as in `Batch`.
        max_history: the newest events that `items` keeps, and its width L however short the histories are; None keeps
            all, and L is the longest. `seen` always keeps all.
    """
    width = max_history or max(1, int(lengths.max(initial=0)))
    rows = np.repeat(np.arange(len(lengths)), lengths)
    items, item_times = pad_left((flat_items, flat_times), lengths, width)
    return Batch(
        items=torch.from_numpy(items),
        item_times=torch.from_numpy(item_times),
        time=torch.from_numpy(np.asarray(time_us, dtype=np.int64)),
        traits=torch.from_numpy(np.ascontiguousarray(traits, dtype=np.int64)),
        context=torch.from_numpy(np.ascontiguousarray(context, dtype=np.int64)),
        trends=torch.from_numpy(np.require(trends, requirements=["C", "W"])),
        moment=torch.from_numpy(np.asarray(moment, dtype=np.int64)),
        seen=torch.from_numpy(np.stack([rows, flat_items]).astype(np.int64)),
    )


def known(items: np.ndarray, times: np.ndarray, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Ragged histories without what the vocabulary does not hold: flat items and times, and (B,) lengths."""
    kept = items != PAD
    if kept.all():
        return items, times, lengths
    rows = np.repeat(np.arange(len(lengths)), lengths)[kept]
    return items[kept], times[kept], np.bincount(rows, minlength=len(lengths))
