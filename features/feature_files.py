"""Read what featurize wrote for one cut."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

from config.command import UserError
from features.sequences import Log
from features.trends import TrendLog
from features.vocabulary import Vocabulary


@dataclass
class Features:
    """One cut's features. `log` holds the whole timeline; `past` only what was known before the cut."""

    vocabulary: Vocabulary
    log: Log
    users: list[str]
    titles: list[str | None]
    item_features: np.ndarray  # (N, V) float32
    description: dict

    @property
    def cut_us(self) -> int:
        return self.description["cut_us"]

    @property
    def past(self) -> Log:
        return self.log.before(self.cut_us)

    def trend_log(self) -> TrendLog:
        """Item trends as of any moment of the timeline."""
        return TrendLog(self.log.items, self.log.times, self.log.known, len(self.vocabulary))


def load(folder: Path | str) -> Features:
    """Read `out/features/<cut>`.

    Raises:
        UserError: the stage has not run.
    """
    folder = Path(folder)
    if not (folder / "description.json").exists():
        raise UserError(f"{folder} holds no features; run `python -m features.featurize` (or `dvc repro`) first")
    read = {name: json.loads((folder / f"{name}.json").read_text()) for name in ("users", "titles", "description")}
    return Features(
        vocabulary=Vocabulary.load(folder / "vocabulary.json"),
        log=Log.load(folder / "log.safetensors"),
        item_features=load_file(folder / "items.safetensors")["item_features"],
        **read,
    )
