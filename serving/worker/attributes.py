"""What may be asked of an item by name: the values of its columns, and the rows that have them. Worker side.

Legend: N item rows (PAD's included).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from serving.worker.request import RequestError

FILE = "attributes.json"
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
        stored = folder is not None and (folder / FILE).exists()
        rows = json.loads((folder / FILE).read_text()) if folder and stored else {}
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
        for field, values in filters.items():
            if field not in self.rows:
                known = ", ".join(sorted(self.rows)) or "none"
                raise RequestError(f"filters.{field}"[:100], f"the items have no such attribute; theirs: {known}")
            has = np.zeros(self.num_items, dtype=bool)
            for value in values:
                has[self.rows[field].get(value, NONE)] = True
            barred |= ~has
        return barred

    def of_items(self, fields: Sequence[str]) -> dict[int, dict[str, frozenset[str]]]:
        """Item row -> field -> its values, for the fields that are asked for."""
        found: dict[int, dict[str, set[str]]] = {}
        for field in fields:
            for value, rows in self.rows.get(field, {}).items():
                for row in rows.tolist():
                    found.setdefault(row, {}).setdefault(field, set()).add(value)
        return {row: {field: frozenset(values) for field, values in by.items()} for row, by in found.items()}
