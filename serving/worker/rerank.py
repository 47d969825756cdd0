"""Steps after scoring that params.yaml declares: diversity and limits. Worker side, pure.

Legend: M candidates best first, V content width, k list length.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

CANDIDATES = 100  # best scores that the steps may reorder; a longer list keeps its tail as it is


@dataclass(frozen=True)
class Limit:
    """At most so many of these item rows in a list."""

    rows: frozenset[int]
    items: int


def rerank(
    rows: Sequence[int],
    scores: Sequence[float],
    k: int,
    diversity: float,
    vectors: np.ndarray | None,
    limits: Sequence[Limit],
) -> list[int]:
    """Places in `rows`, of at most k items, in the order in which they are to be shown.

    Maximal marginal relevance (Carbonell and Goldstein 1998): each place goes to the candidate with the highest
    (1 - diversity) * relevance - diversity * (cosine to the most similar item already placed). Relevance is the score,
    brought to [0, 1] over the candidates. A candidate that would break a limit is passed over.

    Args:
        rows, scores: (M,) candidates, best first.
        diversity: 0 keeps the order of the scores, near 1 looks only at what is new.
        vectors: (N, V) of unit length (or zero, like nothing), by item row; None where diversity is 0.
    """
    relevance = _to_unit(np.asarray(scores, dtype=np.float64))
    alike = np.zeros(len(rows))
    own = None if vectors is None or not diversity else vectors[list(rows)]
    left = np.ones(len(rows), dtype=bool)
    room = [limit.items for limit in limits]
    placed: list[int] = []
    while len(placed) < k and left.any():
        worth = np.where(left, (1 - diversity) * relevance - diversity * alike, -np.inf)
        place = int(np.argmax(worth))  # of equals the first, which has the higher score
        left[place] = False
        if not _takes_room(rows[place], limits, room):
            continue
        placed.append(place)
        if own is not None:
            alike = np.maximum(alike, own @ own[place])
    return placed


def unit(vectors: np.ndarray) -> np.ndarray:
    """(N, V) of unit length; zero stays zero."""
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.where(norms > 0, norms, 1)


def _to_unit(scores: np.ndarray) -> np.ndarray:
    low, high = (scores.min(), scores.max()) if len(scores) else (0.0, 1.0)
    return (scores - low) / ((high - low) or 1.0)


def _takes_room(row: int, limits: Sequence[Limit], room: list[int]) -> bool:
    """Whether every limit on this item has room; takes it if so."""
    held: Callable[[int], bool] = lambda number: row in limits[number].rows  # noqa: E731
    mine = [number for number in range(len(limits)) if held(number)]
    if any(room[number] == 0 for number in mine):
        return False
    for number in mine:
        room[number] -= 1
    return True
