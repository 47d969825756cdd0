"""Steps after scoring: filters by item attribute, limits and diversity. Worker side.

Legend: N item rows (PAD's included), M candidates best first, V content width, k list length.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

from serving.worker.request import RequestError

ATTRIBUTES_FILE = "attributes.json"
CONTENT_FILE = "items.safetensors"  # content vectors, where diversity needs them
CANDIDATES = 100  # best scores that may be reordered; the rest of a longer list keeps its order
NO_ROWS = np.empty(0, dtype=np.int64)


@dataclass
class ItemAttributes:
    """The values of each item's columns, for filters."""

    rows: Mapping[str, Mapping[str, np.ndarray]]  # field -> value -> item rows that have it
    num_items: int  # N

    @classmethod
    def load(cls, folder: Path | None, num_items: int) -> ItemAttributes:
        """Those of an artifact; none without a folder."""
        if folder is None:
            return cls({}, num_items)
        stored = json.loads((folder / ATTRIBUTES_FILE).read_text(encoding="utf-8"))
        rows = {
            name: {value: np.array(rows, np.int64) for value, rows in values.items()} for name, values in stored.items()
        }
        return cls(rows, num_items)

    def excluded_by(self, filters: Mapping[str, Sequence[str]]) -> np.ndarray:
        """(N,) bool: items that have none of the wanted values of some field. A value that no item has matches nothing.

        Raises:
            RequestError: no item has such a field.
        """
        excluded = np.zeros(self.num_items, dtype=bool)
        for name, values in filters.items():
            if name not in self.rows:
                known = ", ".join(sorted(self.rows)) or "none"
                raise RequestError(f"filters.{name}", f"items have no such attribute; known are {known}")
            matches = np.zeros(self.num_items, dtype=bool)
            for value in values:
                matches[self.rows[name].get(value, NO_ROWS)] = True
            excluded |= ~matches
        return excluded

    def by_item(self, names: Sequence[str]) -> dict[int, dict[str, frozenset[str]]]:
        """Item row -> field -> values, for the given fields."""
        found: dict[int, dict[str, frozenset[str]]] = {}
        for name in names:
            for value, rows in self.rows.get(name, {}).items():
                for row in rows.tolist():
                    values = found.setdefault(row, {})
                    values[name] = values.get(name, frozenset()) | {value}
        return found


@dataclass(frozen=True)
class ItemLimit:
    """At most so many of these item rows in a list."""

    rows: frozenset[int]
    items: int


@dataclass(frozen=True)
class ListRules:
    """Diversity and limits, as the section `serve` of params.yaml declares them at export."""

    diversity: float = 0.0
    limits: list[ItemLimit] = field(default_factory=list)
    vectors: np.ndarray | None = None  # (N, V) content vectors of unit length; None without diversity

    @classmethod
    def load(cls, serve: dict, folder: Path | None, attributes: ItemAttributes) -> ListRules:
        """From the section `serve` of an artifact's config."""
        limits = [
            ItemLimit(frozenset(attributes.rows.get(one["field"], {}).get(one["value"], ())), one["items"])
            for one in serve.get("at_most", [])
        ]
        diversity = serve.get("diversity", 0.0)
        vectors = normalize(load_file(folder / CONTENT_FILE)["items"]) if diversity and folder else None
        return cls(diversity, limits, vectors)

    @property
    def num_candidates(self) -> int:
        """How many of the best scores the rules need to see, whatever k is."""
        return CANDIDATES if self.diversity or self.limits else 0

    def order(self, rows: Sequence[int], scores: Sequence[float], k: int) -> list[int]:
        """Positions in the candidates (best first), in the order of the final list."""
        if not self.num_candidates:
            return list(range(min(k, len(rows))))
        return rerank(rows, scores, k, self.diversity, self.vectors, self.limits)


def rerank(
    rows: Sequence[int],
    scores: Sequence[float],
    k: int,
    diversity: float,
    vectors: np.ndarray | None,
    limits: Sequence[ItemLimit],
) -> list[int]:
    """Positions in `rows` of at most k items, in the order of the final list.

    Maximal marginal relevance (Carbonell and Goldstein 1998): each place goes to the candidate with the highest
    (1 - diversity) * relevance - diversity * (cosine to the most similar item already placed). Relevance is the score,
    scaled to [0, 1] over the candidates. A candidate that would break a limit is skipped.

    Args:
        rows, scores: (M,) candidates, best first.
        diversity: 0 keeps the order of the scores; near 1, novelty alone decides.
        vectors: (N, V) of unit length, or zero: similar to nothing; None where diversity is 0.
    """
    relevance = np.asarray(scores, dtype=np.float64)
    if len(rows):
        relevance = (relevance - relevance.min()) / (np.ptp(relevance) or 1.0)
    similarity = np.zeros(len(rows))
    candidate_vectors = None if vectors is None or not diversity else vectors[list(rows)]
    is_left = np.ones(len(rows), dtype=bool)
    room = [limit.items for limit in limits]
    placed: list[int] = []
    while len(placed) < k and is_left.any():
        value = np.where(is_left, (1 - diversity) * relevance - diversity * similarity, -np.inf)
        position = int(np.argmax(value))  # the first of equals, which has the higher score
        is_left[position] = False
        applying = [number for number, limit in enumerate(limits) if rows[position] in limit.rows]
        if any(room[number] == 0 for number in applying):
            continue
        for number in applying:
            room[number] -= 1
        placed.append(position)
        if candidate_vectors is not None:
            similarity = np.maximum(similarity, candidate_vectors @ candidate_vectors[position])
    return placed


def normalize(vectors: np.ndarray) -> np.ndarray:
    """(N, V) of unit length; zero stays zero."""
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.where(norms > 0, norms, 1)
