"""The items side of a measurement: items.parquet as arrays, one row per known item.

Shapes: I known items, D width of the content vector.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from command import UserError

HEAD_SHARE = 0.2  # of the catalogue's items, most popular first


class RankingsError(UserError):
    """A rankings or items table that cannot be measured; the message names the column, the value and the
    bound."""


@dataclass(frozen=True)
class Catalogue:
    """What the metrics need to know of each item.

    Attributes:
        ids: (I,) item ids.
        member: (I,) whether the item belongs to the catalogue; only then can it be recommended.
        popularity: (I,) training events.
        percentile: (I,) share of the catalogue with fewer training events, plus half of the share with as
            many: [0, 1].
        novelty: (I,) -log2(max(events, 1) / all training events), bits.
        head: (I,) whether the item is among the most popular 20% of the catalogue (ties by item id).
        age_days: (I,) age at test_start; NaN where unknown.
        unit: (I, D) content vectors of length 1 (0 where an item has no content), or None without any
            content.
    """

    ids: pd.Index
    member: np.ndarray
    popularity: np.ndarray
    percentile: np.ndarray
    novelty: np.ndarray
    head: np.ndarray
    age_days: np.ndarray
    unit: np.ndarray | None

    @classmethod
    def of(cls, items: pd.DataFrame) -> Catalogue:
        """Read the columns item_id, popularity, catalogue and, where there, age_days and vector.

        Raises:
            RankingsError: a column is missing, an id occurs twice, or no item belongs to the catalogue.
        """
        missing = [name for name in ("item_id", "popularity", "catalogue") if name not in items]
        if missing:
            raise RankingsError(f"items: the column {missing[0]} is missing")
        ids = pd.Index(items["item_id"])
        if ids.has_duplicates:
            raise RankingsError(f"items: item_id {ids[ids.duplicated()][0]!r} occurs twice")
        member = items["catalogue"].to_numpy(bool)
        if not member.any():
            raise RankingsError("items: no row has catalogue = true; expected at least one")
        popularity = items["popularity"].to_numpy(float)
        age = items["age_days"].to_numpy(float) if "age_days" in items else np.full(len(ids), np.nan)
        share = np.maximum(popularity, 1) / max(popularity.sum(), 1)
        return cls(ids, member, popularity, _percentile(popularity, member), -np.log2(share),
                   _head(ids, popularity, member), age, _unit(items))  # fmt: skip

    def rows(self, lists: Sequence[Sequence[str]] | np.ndarray, column: str) -> np.ndarray:
        """The row of each id in all lists, joined end to end.

        Raises:
            RankingsError: an id is not in items.
        """
        joined = np.concatenate([np.asarray(ids, object) for ids in lists] or [np.zeros(0, object)])
        rows = self.ids.get_indexer(joined)
        if (rows < 0).any():
            raise RankingsError(f"rankings: {column} holds {joined[rows < 0][0]!r}, which is not in items")
        return rows


def _percentile(popularity: np.ndarray, member: np.ndarray) -> np.ndarray:
    known = np.sort(popularity[member])
    below, upto = np.searchsorted(known, popularity, "left"), np.searchsorted(known, popularity, "right")
    return (below + upto) / 2 / len(known)


def _head(ids: pd.Index, popularity: np.ndarray, member: np.ndarray) -> np.ndarray:
    order = np.lexsort((ids.astype(str).to_numpy(str), -popularity, ~member))
    head = np.zeros(len(ids), bool)
    head[order[: int(np.ceil(HEAD_SHARE * member.sum()))]] = True
    return head


def _unit(items: pd.DataFrame) -> np.ndarray | None:
    vectors = items["vector"] if "vector" in items else pd.Series([None] * len(items))
    width = max((len(vector) for vector in vectors if vector is not None), default=0)
    if width == 0:
        return None
    matrix = np.zeros((len(items), width))
    for row, vector in enumerate(vectors):
        if vector is not None and len(vector):
            matrix[row] = vector
    length = np.linalg.norm(matrix, axis=1, keepdims=True)
    return np.divide(matrix, length, out=np.zeros_like(matrix), where=length > 0)
