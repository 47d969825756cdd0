"""Map item ids to dense indices and back. Row 0 stands for padding and for every unknown id."""

from __future__ import annotations

import json
from collections.abc import Iterable
from itertools import repeat
from pathlib import Path

import numpy as np

PAD = 0


class Vocabulary:
    """Item ids in a fixed order: index 1 is the first id, index 0 (`PAD`) is no id.

    The most popular id comes first: the order breaks ties between equal scores.
    """

    def __init__(self, ids: Iterable[str]) -> None:
        self.ids = list(ids)
        self._index = {item: position for position, item in enumerate(self.ids, start=1)}
        if len(self._index) != len(self.ids):
            raise ValueError("a vocabulary holds an id twice")

    def __len__(self) -> int:
        """N: the rows of an item table, including the row of PAD."""
        return len(self.ids) + 1

    def index(self, item_id: str) -> int:
        """The row of one id, PAD if unknown."""
        return self._index.get(item_id, PAD)

    def indices(self, item_ids: Iterable[str]) -> np.ndarray:
        """(n,) int64 rows, PAD where unknown."""
        return np.array(list(map(self._index.get, item_ids, repeat(PAD))), dtype=np.int64)

    def id(self, index: int) -> str:
        """The id of one row. Raises IndexError for PAD and for rows beyond the table."""
        if index <= PAD:
            raise IndexError("padding has no id")
        return self.ids[index - 1]

    def save(self, path: Path) -> None:
        path.write_text(json.dumps(self.ids, ensure_ascii=False), encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> Vocabulary:
        return cls(json.loads(path.read_text(encoding="utf-8")))
