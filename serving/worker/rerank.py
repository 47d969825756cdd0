"""Steps after scoring that params.yaml declares: diversity and limits. Worker side, pure.

Legend: M candidates best first, V content width, k list length.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

from serving.worker.request import RequestError

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


ATTRIBUTES_FILE = "attributes.json"
NONE = np.empty(0, dtype=np.int64)


class Attributes:
    """Args:
    rows: field -> value -> the item rows that have it, as an array: a filter may name half of a large catalogue.
    num_items: N.
    """

    def __init__(self, rows: Mapping[str, Mapping[str, np.ndarray]], num_items: int) -> None:
        self.rows, self.num_items = rows, num_items

    @classmethod
    def load(cls, folder: Path | None, num_items: int) -> Attributes:
        """Those of an artifact; none where it was exported before there were any."""
        stored = folder is not None and (folder / ATTRIBUTES_FILE).exists()
        rows = json.loads((folder / ATTRIBUTES_FILE).read_text()) if folder and stored else {}
        return cls(
            {field: {value: np.array(of, np.int64) for value, of in by.items()} for field, by in rows.items()},
            num_items,
        )

    def barred(self, filters: Mapping[str, Sequence[str]]) -> np.ndarray:
        """(N,) bool: items that lack, of any field, every value that was asked for.

        Raises:
            RequestError: a field that no item has. A value that no item has is answered: nothing matches it.
        """
        barred = np.zeros(self.num_items, dtype=bool)
        for name, values in filters.items():
            if name not in self.rows:
                known = ", ".join(sorted(self.rows)) or "none"
                raise RequestError(f"filters.{name}"[:100], f"the items have no such attribute; theirs: {known}")
            has = np.zeros(self.num_items, dtype=bool)
            for value in values:
                has[self.rows[name].get(value, NONE)] = True
            barred |= ~has
        return barred

    def of_items(self, fields: Sequence[str]) -> dict[int, dict[str, frozenset[str]]]:
        """Item row -> field -> its values, for the fields that are asked for."""
        found: dict[int, dict[str, set[str]]] = {}
        for name in fields:
            for value, rows in self.rows.get(name, {}).items():
                for row in rows.tolist():
                    found.setdefault(row, {}).setdefault(name, set()).add(value)
        return {row: {name: frozenset(values) for name, values in by.items()} for row, by in found.items()}


PRESENTATION_FILE = "items.safetensors"  # content vectors, where diversity asks for them


@dataclass(frozen=True)
class Presentation:
    """Nothing to do unless params.yaml, `serve`, says so at export."""

    diversity: float = 0.0
    limits: list[Limit] = field(default_factory=list)
    vectors: np.ndarray | None = None  # (N, V) of unit length

    @classmethod
    def load(cls, declared: dict, folder: Path | None, attributes: Attributes) -> Presentation:
        """From the section `serve` as the artifact's config holds it; empty in artifacts from before there was one."""
        limits = [
            Limit(frozenset(attributes.rows.get(one["field"], {}).get(one["value"], ())), one["items"])
            for one in declared.get("at_most", [])
        ]
        diversity = declared.get("diversity", 0.0)
        vectors = unit(load_file(folder / PRESENTATION_FILE)["items"]) if diversity and folder else None
        return cls(diversity, limits, vectors)

    @property
    def needed(self) -> int:
        """How many of the best scores it wants to see, whatever k is."""
        return CANDIDATES if self.diversity or self.limits else 0

    def places(self, rows: Sequence[int], scores: Sequence[float], k: int) -> list[int]:
        """Places in the candidates (best first), in the order in which they are shown."""
        if not self.needed:
            return list(range(min(k, len(rows))))
        return rerank(rows, scores, k, self.diversity, self.vectors, self.limits)
