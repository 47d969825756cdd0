"""Metrics files: what evaluate writes about one model, and what compare, the gate and the reports read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
from pydantic import BaseModel, ConfigDict

from config.command import UserError
from config.paths import METRICS, RANKINGS
from experiments.evaluation.cases import PRIMARY


class CompareError(UserError):
    """Numbers may not be compared. The message names the files and what differs."""


class MeasuredModel(BaseModel):
    """The metrics of one model, and where they come from.

    Attributes:
        label: key in params.train.models; also names the file.
        model: name of the model class.
        baseline: whether this is a baseline (popularity, ease, sasrec, ...). A learned baseline is never the candidate.
        learned: trained by gradient descent; each such model that is no baseline is compared with the best baseline.
        oracle: the simulator's true preferences: an upper bound, not a model.
        date: when it was measured, ISO with zone. commit, command: from which code, and how.
        rankings: files in out/experiments/rankings, one per seed.
        validation: target -> metric key -> number or {"mean": number}, measured on the validation period.
        segments: slice name -> its rule in words.
        targets: the result of `measure`. "next_item_frozen" holds `next_item` with item trends frozen at test_start.
    """

    model_config = ConfigDict(extra="allow", frozen=True)

    label: str
    model: str
    params: dict[str, Any]
    fit_seconds: float | None
    baseline: bool
    learned: bool
    oracle: bool = False
    dataset: str
    dataset_hash: str
    split_id: str
    commit: str
    date: str
    command: str
    seeds: list[int]
    rankings: list[str] | None = None
    validation: dict[str, dict[str, Any]] = {}
    segments: dict[str, str] = {}
    targets: dict[str, dict[str, Any]]

    def ranking_files(self, folder: Path) -> list[Path]:
        """One rankings file per seed; <label>.parquet by default."""
        return [folder / name for name in self.rankings or [f"{self.label}.parquet"]]

    def point(self, target: str, key: str, slice_name: str | None = None) -> float | None:
        """The mean (or value) of a metric; None if it was not measured."""
        return entry_value(self.entry(target, key, slice_name))

    def entry(self, target: str, key: str, slice_name: str | None = None) -> dict[str, Any]:
        """{"mean", "low", "high"} or {"value"} of a metric; empty if it was not measured."""
        measured = self.targets.get(target, {})
        if slice_name is not None:
            measured = measured.get("slices", {}).get(slice_name, {})
        return measured.get("metrics", {}).get(key, {})


def entry_value(entry: Any) -> float | None:
    """The number in {"mean": x}, {"value": x} or x itself."""
    return entry.get("mean", entry.get("value")) if isinstance(entry, dict) else entry


def read_metrics(folder: Path, dataset: str) -> list[MeasuredModel]:
    """Read the metrics files of one dataset, by label; files of other datasets are skipped.

    Raises:
        CompareError: there is no file, or the files rest on different splits or data.
    """
    texts = [path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.json"))]
    models = [MeasuredModel.model_validate_json(text) for text in texts]
    own = [model for model in models if model.dataset == dataset]
    if not own:
        others = sorted({model.dataset for model in models})
        hint = f", only of {others}" if others else "; run evaluate"
        raise CompareError(f"{folder} holds no metrics of {dataset!r}{hint}")
    check_same_split(own)
    return own


def check_same_split(models: list[MeasuredModel]) -> None:
    """Check that numbers may be compared: they rest on one split of one dataset, and a segment means the same in all.

    Raises:
        CompareError: split_id, dataset_hash or segments differ; names a model on each side.
    """
    first, *others = models
    for name in ("split_id", "dataset_hash", "segments"):
        for other in others:
            if getattr(first, name) != getattr(other, name):
                raise CompareError(
                    f"{first.label} was measured on {name} {getattr(first, name)}, {other.label} on "
                    f"{getattr(other, name)}; evaluate both on one split with the same segments.rules"
                )


def write_metrics(label: str, rankings: pd.DataFrame, metrics: dict[str, Any], items: pd.DataFrame) -> None:
    """Write rankings/<label>.parquet, rankings/items.parquet and metrics/<label>.json."""
    for folder in (RANKINGS, METRICS):
        folder.mkdir(parents=True, exist_ok=True)
    rankings.to_parquet(RANKINGS / f"{label}.parquet", index=False)
    items.to_parquet(RANKINGS / "items.parquet", index=False)  # the same bytes from every model
    (METRICS / f"{label}.json").write_text(json.dumps(metrics, indent=1, sort_keys=True), encoding="utf-8")


def headline(targets: dict[str, Any]) -> str:
    """`NDCG@10 next_item 0.162 (0.155 with frozen trends), horizon 0.182`."""
    means = {target: measured["metrics"][PRIMARY]["mean"] for target, measured in targets.items()}
    frozen = f" ({means['next_item_frozen']:.3f} with frozen trends)" if "next_item_frozen" in means else ""
    shown = {"next_item": frozen, "horizon": ""}
    parts = [f"{target} {means[target]:.3f}{note}" for target, note in shown.items() if target in means]
    return f"NDCG@10 {', '.join(parts)}"
