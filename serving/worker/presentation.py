"""The steps after scoring that an artifact declares, ready to run. Worker side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

from serving.worker.attributes import Attributes
from serving.worker.rerank import CANDIDATES, Limit, rerank, unit

FILE = "items.safetensors"  # content vectors, where diversity asks for them


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
        vectors = unit(load_file(folder / FILE)["items"]) if diversity and folder else None
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
