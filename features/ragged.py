"""Ragged arrays: rows of different lengths stored one after the other in a flat array.

Row i of a ragged array with `offsets` is flat[offsets[i]:offsets[i + 1]]. Legend: n rows, E elements.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def offsets_of(lengths: np.ndarray) -> np.ndarray:
    """(n + 1,) int64: where each row begins, and where the last one ends."""
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


def row_numbers(lengths: np.ndarray) -> np.ndarray:
    """(E,) the row of each element."""
    return np.repeat(np.arange(len(lengths)), lengths)


def ranges(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """(E,) positions starts[0], starts[0] + 1, ... of the first row, then those of the second, and so on."""
    first = np.cumsum(lengths) - lengths
    return np.repeat(starts - first, lengths) + np.arange(int(np.sum(lengths)))


def pad_left(flats: Sequence[np.ndarray], lengths: np.ndarray, width: int) -> list[np.ndarray]:
    """(n, width) rows of each flat array, right-aligned with zeros before; of longer rows the last `width` elements."""
    column = np.arange(width)
    inside = column >= (width - lengths)[:, None]
    source = (np.cumsum(lengths)[:, None] - width + column)[inside]
    padded = [np.zeros((len(lengths), width), dtype=flat.dtype) for flat in flats]
    for rows, flat in zip(padded, flats, strict=True):
        rows[inside] = flat[source]
    return padded


def first_of_pairs(users: np.ndarray, items: np.ndarray) -> np.ndarray:
    """(E,) bool: whether no earlier element has the same (user, item) pair. Both are non-negative integers."""
    pairs = users * (int(items.max(initial=0)) + 1) + items
    first = np.zeros(len(pairs), dtype=bool)
    first[np.unique(pairs, return_index=True)[1]] = True
    return first
