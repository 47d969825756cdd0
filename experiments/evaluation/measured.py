"""The metrics file of one model: experiments/out/metrics/<label>.json, written by evaluate, read by compare
and gate."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from command import UserError


class CompareError(UserError):
    """Numbers that may not stand side by side; the message names the files and what differs."""


class Measured(BaseModel):
    """What was measured of one model, and where the numbers come from.

    Attributes:
        label: key in params.train.models; also names the file.
        model: name of the model class.
        peer: what ours are judged against (popularity, ease, sasrec, ...); a learned one is never the candidate.
        learned: trained by gradient descent; those of ours are compared with the best peer of each target.
        oracle: the simulator's true preferences: what is reachable, not a model.
        date: when it was measured, ISO with zone. commit, command: from what, and how.
        test_start, test_end: the time that the cases lie in, ISO.
        rankings: files in experiments/out/rankings, one per seed.
        validation: {target: {metric key: number or {"mean": number}}}, measured on the validation window.
        segments: slice name -> its rule in words.
        targets: measure()'s answer; "next_frozen" holds `next` with trends frozen at test_start.
    """

    model_config = ConfigDict(extra="allow", frozen=True)

    label: str
    model: str
    params: dict[str, Any]
    fit_seconds: float | None
    peer: bool
    learned: bool
    oracle: bool = False
    dataset: str
    dataset_hash: str
    split_id: str
    commit: str
    date: str
    command: str
    seeds: list[int]
    test_start: str | None = None
    test_end: str | None = None
    rankings: list[str] | None = None
    validation: dict[str, dict[str, Any]] = {}
    segments: dict[str, str] = {}
    targets: dict[str, dict[str, Any]]

    def ranking_files(self, folder: Path) -> list[Path]:
        """One rankings file per seed; <label>.parquet where none is named."""
        return [folder / name for name in self.rankings or [f"{self.label}.parquet"]]

    def point(self, target: str, key: str, slice_name: str | None = None) -> float | None:
        """The mean (or value) of a metric; None where it was not measured."""
        return point(self.entry(target, key, slice_name))

    def entry(self, target: str, key: str, slice_name: str | None = None) -> dict[str, Any]:
        """{"mean", "low", "high"} or {"value"} of a metric; empty where it was not measured."""
        found = self.targets.get(target, {})
        if slice_name is not None:
            found = found.get("slices", {}).get(slice_name, {})
        return found.get("metrics", {}).get(key, {})


def point(entry: Any) -> float | None:
    """The number in {"mean": x}, {"value": x} or x itself."""
    return entry.get("mean", entry.get("value")) if isinstance(entry, dict) else entry


def read_metrics(folder: Path, dataset: str) -> list[Measured]:
    """The metrics files of one data set, by label; files of other data sets are passed over.

    Raises:
        CompareError: no file, a file that does not parse, or files that rest on different splits or data.
    """
    found = []
    for path in sorted(folder.glob("*.json")):
        try:
            found.append(Measured.model_validate_json(path.read_text()))
        except ValidationError as error:
            fault = error.errors()[0]
            where = ".".join(str(part) for part in fault["loc"]) or "the file"
            raise CompareError(f"{path}: {where}: {fault['msg']}; run evaluate again") from None
    mine = [one for one in found if one.dataset == dataset]
    if not mine:
        others = sorted({one.dataset for one in found})
        raise CompareError(
            f"{folder} holds no metrics of {dataset!r}" + (f", only of {others}" if others else "; run evaluate")
        )
    must_share_split(mine)
    return mine


def must_share_split(measured: list[Measured]) -> None:
    """Two numbers may be compared only when they rest on the same split of the same data, and of one name mean one
    segment.

    Raises:
        CompareError: split_id, dataset_hash or segments differ; names a model on each side.
    """
    for name in ("split_id", "dataset_hash"):
        first = measured[0]
        for other in measured[1:]:
            if getattr(first, name) != getattr(other, name):
                raise CompareError(
                    f"{first.label} was measured on {name} {getattr(first, name)}, {other.label} on "
                    f"{getattr(other, name)}; evaluate both on one split"
                )
    for other in measured[1:]:
        if measured[0].segments != other.segments:
            raise CompareError(
                f"{measured[0].label} and {other.label} were measured by different segments.rules; evaluate both again"
            )
