"""Rankings in, numbers out: every published metric of one model, with intervals and slices, per target.

`horizon` averages over users (one case each), `next_item` over cases, with the mean of users' means beside it. With
several seeds each case is averaged over the seeds first; then users are resampled.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from pydantic import BaseModel, ConfigDict, ValidationError

from config.command import UserError
from experiments.evaluation.bootstrap import Totals, intervals
from experiments.evaluation.cases import RANKED_LENGTH, TARGETS, Catalog, RankedCases, gather
from experiments.evaluation.list_metrics import over_cases, per_case, personalization, personalization_bounds
from experiments.evaluation.slices import sliced
from training.metrics import accuracy

HEADLINE = 10
KS = (5, 10, 20, 50, 100)
BY_USER = "_by_user"
SLICE_METRICS = (f"ndcg@{HEADLINE}", f"recall@{HEADLINE}")

DEFINITIONS = {
    "recall": "hits in the first k / min(k, |truth|)",
    "hr": "share of cases with any hit in the first k",
    "ndcg": "sum over hits of 1/log2(rank+1), over the same sum for the ideal list of length min(k, |truth|)",
    "map": "sum over hits of (hits so far / rank), divided by min(k, |truth|)",
    "mrr": "1 / rank of the first hit, 0 beyond rank 100",
    "_by_user": "mean of users' means, each user counting once",
    "coverage": "share of the catalogue that occurs in the first k of any list",
    "gini": "inequality of how often the catalogue's items are shown: 0 all alike, near 1 a few items only",
    "popularity_percentile": "mean over the list of the share of the catalogue with fewer events + half of equals",
    "novelty": "mean over the list of -log2(max(item's training events, 1) / all training events), bits",
    "diversity": "1 - mean cosine of the item content of all pairs in the first k",
    "personalization": "1 - mean of |A and B| / k over all pairs of users, each with their last list",
}


def measure(
    rankings: pd.DataFrame | Sequence[pd.DataFrame],
    items: pd.DataFrame,
    seed: int,
    resamples: int = 1000,
    k: Sequence[int] = KS,
) -> dict[str, Any]:
    """Measure one model on the targets that its rankings hold.

    Args:
        rankings: the rankings table, or one per seed of the same model on the same cases.
        items: the table of items.parquet.
        seed: of the bootstrap; the same for all models that will be compared.
        k: list lengths, none above 100; 10, the headline, is always among them.

    Returns:
        {"horizon" | "next_item": {"users", "cases", "metrics": {key: {"mean", "low", "high"}}, "slices": {name: the
        same}}}; coverage and gini are {"value"}: no means, no interval. A bound is None where fewer than two
        users carry it.

    Raises:
        RankingsError: a table that cannot be measured.
    """
    frames = [rankings] if isinstance(rankings, pd.DataFrame) else list(rankings)
    catalogue, ks = Catalog.of(items), sorted({*k, HEADLINE})
    if not 1 <= ks[0] <= ks[-1] <= RANKED_LENGTH:
        raise ValueError(f"k is {list(k)}; expected values in [1, {RANKED_LENGTH}], the length of `ranked`")
    found = {target: gather(frames, target, catalogue) for target in TARGETS}
    return {
        target: _target(cases, catalogue, seed, resamples, ks, by_user=target == "next_item")
        for target, cases in found.items()
        if cases is not None
    }


def _target(
    cases: RankedCases, catalogue: Catalog, seed: int, resamples: int, ks: list[int], by_user: bool
) -> dict[str, Any]:
    whole = _per_case(cases, catalogue, ks)
    parts = sliced(cases, catalogue, HEADLINE, SLICE_METRICS)
    totals = _totals(whole, cases)
    keys: list[Any] = list(whole)
    if by_user:
        accurate = [column for column, key in enumerate(keys) if key in accuracy_keys(ks)]
        own = Totals(totals.sums[:, accurate], totals.counts[:, accurate]).by_user()
        totals, keys = totals.beside(own), keys + [keys[column] + BY_USER for column in accurate]
    for name, values in parts.items():
        totals, keys = totals.beside(_totals(values, cases)), keys + [(name, key) for key in values]
    entries = dict(zip(keys, entries_of(totals, seed, resamples), strict=True))
    metrics = {key: entry for key, entry in entries.items() if isinstance(key, str)}
    metrics |= _over_lists(cases, catalogue, seed, resamples, ks)
    slices = {
        name: _counted(values, cases) | {"metrics": {key: entries[name, key] for key in values}}
        for name, values in parts.items()
    }
    return {"users": cases.num_users, "cases": len(cases.user), "metrics": metrics, "slices": slices}


def accuracy_keys(ks: Sequence[int]) -> set[str]:
    """The keys that get a mean of users' means beside their mean over cases."""
    return {f"{name}@{k}" for name in ("recall", "hr", "ndcg", "map") for k in ks} | {"mrr@100"}


def entries_of(totals: Totals, seed: int, resamples: int) -> list[dict[str, float | None]]:
    """{"mean", "low", "high"} of each column; None for what is undefined."""
    columns = zip(*intervals(totals, seed, resamples), strict=True)
    return [dict(zip(("mean", "low", "high"), map(number, column), strict=True)) for column in columns]


def number(value: float) -> float | None:
    """A JSON number: None for NaN."""
    return None if np.isnan(value) else float(value)


def _per_case(cases: RankedCases, catalogue: Catalog, ks: list[int]) -> dict[str, np.ndarray]:
    each_seed = [accuracy(r.truth, ks) | per_case(r.lists, catalogue, HEADLINE) for r in cases.seeds]
    return {key: np.mean([values[key] for values in each_seed], axis=0) for key in each_seed[0]}


def _totals(values: dict[str, np.ndarray], cases: RankedCases) -> Totals:
    return Totals.of(np.stack(list(values.values()), axis=1), cases.user, cases.num_users)


def _over_lists(cases: RankedCases, catalogue: Catalog, seed: int, resamples: int, ks: list[int]) -> dict[str, Any]:
    each_seed = [over_cases(r.lists, catalogue, ks) for r in cases.seeds]
    values = {key: {"value": number(float(np.mean([v[key] for v in each_seed])))} for key in each_seed[0]}
    lists = [r.lists[cases.last] for r in cases.seeds]
    mean = float(np.mean([personalization(own, HEADLINE, len(catalogue.ids)) for own in lists]))
    bounds = personalization_bounds(lists, HEADLINE, seed, resamples)
    entry = dict(zip(("mean", "low", "high"), map(number, (mean, *bounds)), strict=True))
    return values | {f"personalization@{HEADLINE}": entry}


def _counted(values: dict[str, np.ndarray], cases: RankedCases) -> dict[str, int]:
    inside = ~np.isnan(next(iter(values.values())))
    return {"users": len(np.unique(cases.user[inside])), "cases": int(inside.sum())}


class CompareError(UserError):
    """Numbers that may not stand side by side; the message names the files and what differs."""


class Measured(BaseModel):
    """What was measured of one model, and where the numbers come from.

    Attributes:
        label: key in params.train.models; also names the file.
        model: name of the model class.
        baseline: what ours are judged against (popularity, ease, sasrec, ...); a learned one is never the candidate.
        learned: trained by gradient descent; those of ours are compared with the best baseline of each target.
        oracle: the simulator's true preferences: what is reachable, not a model.
        date: when it was measured, ISO with zone. commit, command: from what, and how.
        test_start, test_end: the time that the cases lie in, ISO.
        rankings: files in out/experiments/rankings, one per seed.
        validation: {target: {metric key: number or {"mean": number}}}, measured on the validation window.
        segments: slice name -> its rule in words.
        targets: measure()'s answer; "next_item_frozen" holds `next_item` with trends frozen at test_start.
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
