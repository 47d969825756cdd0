"""The features of one cut, and the files that hold them. Light: fitting features is in `features.fit`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from config.command import UserError
from features.sequences import InteractionLog
from features.trends import TrendLog
from features.vocabulary import Vocabulary

CUTS = ("valid", "test")
FULL = "full"  # the cut after the last event, for a refit on all data, after which nothing is left to evaluate on
JSON_FIELDS = ("users", "titles", "description")


@dataclass
class Features:
    """The features of one cut. `log` holds the whole timeline, `past` only what was known before the cut."""

    vocabulary: Vocabulary
    log: InteractionLog
    users: list[str]  # user ids in the order of the log's user rows
    titles: list[str | None]
    item_features: np.ndarray  # (N, V) float32
    description: dict

    @property
    def cut_us(self) -> int:
        return self.description["cut_us"]

    @property
    def past(self) -> InteractionLog:
        return self.log.before(self.cut_us)

    def trend_log(self) -> TrendLog:
        """Item trends as of any moment of the timeline."""
        return TrendLog(self.log.items, self.log.times, self.log.known, len(self.vocabulary))


def cut_time(cut: str, manifest: Mapping[str, Any]) -> int:
    """The time of a cut in microseconds, from the split's manifest."""
    return manifest["end_us"] + 1 if cut == FULL else manifest[f"{cut}_start_us"]


def save_features(folder: Path, features: Features) -> None:
    """Write features for `load_features`."""
    folder.mkdir(parents=True, exist_ok=True)
    features.vocabulary.save(folder / "vocabulary.json")
    features.log.save(folder / "log.safetensors")
    save_file({"item_features": features.item_features}, folder / "items.safetensors")
    for name in JSON_FIELDS:
        (folder / f"{name}.json").write_text(json.dumps(getattr(features, name), ensure_ascii=False), encoding="utf-8")


def load_features(folder: Path | str) -> Features:
    """Read the features of one cut, `out/features/<cut>`. Raises UserError if the stage has not run."""
    folder = Path(folder)
    if not (folder / "description.json").exists():
        raise UserError(f"{folder} holds no features; run `python -m features.featurize` (or `dvc repro`) first")
    return Features(
        vocabulary=Vocabulary.load(folder / "vocabulary.json"),
        log=InteractionLog.load(folder / "log.safetensors"),
        item_features=load_file(folder / "items.safetensors")["item_features"],
        **{name: json.loads((folder / f"{name}.json").read_text(encoding="utf-8")) for name in JSON_FIELDS},
    )
