"""Lists for everybody: the popular one that TorchServe gave last, and the static one of an exported artifact."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import orjson

from data import files
from serving.edge.answer import without


@dataclass(frozen=True)
class Listing:
    """Items, best first, and what they rest on.

    Attributes:
        items: as answers hold them: item_id, score, title.
        time: when it was made, ISO.
    """

    items: list[dict[str, Any]]
    time: str
    trends_time: str | None
    model_version: str
    dataset_version: str

    @classmethod
    def of(cls, fields: dict[str, Any]) -> Listing:
        """The list in an answer's fields."""
        return cls(**{name: fields[name] for name in cls.__dataclass_fields__})

    def fields(self, rung: str, reason: str, k: int, unwanted: Collection[str]) -> dict[str, Any]:
        """An answer's fields, of the first k items that are not unwanted."""
        return {
            **vars(self),
            "items": without(self.items, unwanted, k),
            "rung": rung,
            "reason": reason,
            "feature_time": None,
            "segments": [],
        }

    def save(self, path: Path) -> None:
        """Write it, whole or not at all. Raises OSError."""
        files.write_bytes(path, orjson.dumps(asdict(self)))

    @classmethod
    def load(cls, path: Path) -> Listing | None:
        """The list in a file; None where there is none that can be read."""
        try:
            return cls(**orjson.loads(path.read_bytes()))
        except (OSError, ValueError, TypeError):
            return None


EMPTY = Listing([], "1970-01-01T00:00:00Z", None, "", "")  # before anything was ever exported
