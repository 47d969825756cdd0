"""The leaderboard of a dataset: its measured models, their comparisons, and the committed result file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from experiments.evaluation.bootstrap import UserTotals, intervals, json_number
from experiments.evaluation.cases import HEADLINE, PRIMARY, TARGETS, align_cases, true_ranks
from experiments.evaluation.comparison import (
    CompareError,
    MeasuredModel,
    best_baseline,
    comparisons,
    part_pairs,
    read_metrics,
)
from experiments.evaluation.measure import BY_USER, KS
from training.metrics import accuracy

DIGITS = 6  # significant digits of every measured number in the result file
PERIODS = 8  # of the decay curve, of equal length from the cut to the last case
FROZEN = "next_item_frozen"  # `next_item` with item trends frozen at test_start
SLICES = ("cold", "warm")  # in the result file, with every segment
METRICS = [
    *(f"{name}@{HEADLINE}" for name in ("ndcg", "recall", "hr", "map", "coverage", "gini", "popularity_percentile",
                                        "novelty", "diversity", "personalization")),
    "mrr@100",
    PRIMARY + BY_USER,
    *(f"{name}@{k}" for name in ("ndcg", "recall") for k in KS if k != HEADLINE),
]  # fmt: skip
RANKING_COLUMNS = ["case_id", "user_id", "target", "time", "history_length", "true_ranks"]  # the lists are large


@dataclass(frozen=True)
class Board:
    """Models measured on one split, with their comparisons.

    Attributes:
        models: every model, by label.
        oracle: the simulator's upper bound, if there is one.
        registered: label of the model that is registered for the gate; None if no model is learned.
        decay: label -> NDCG@10 of `next_item` by period after the cut.
    """

    dataset: str
    models: list[MeasuredModel]
    oracle: MeasuredModel | None = None
    comparisons: list[dict[str, Any]] = field(default_factory=list)
    registered: str | None = None
    decay: dict[str, list[dict[str, Any]]] = field(default_factory=dict)

    @property
    def best_baseline(self) -> dict[str, str | None]:
        """Label of the best baseline of each target."""
        return {target: best_baseline(self.models, target) for target in self.targets}

    @property
    def targets(self) -> list[str]:
        """The targets that any model was measured on."""
        return [target for target in TARGETS if any(target in model.targets for model in self.models)]

    @property
    def segments(self) -> dict[str, str]:
        """Slice name of each segment -> its rule in words."""
        return self.models[0].segments

    @property
    def provenance(self) -> dict[str, str]:
        """Where the numbers come from. If models come from several commits or commands, all are named."""
        models = [*self.models, *([self.oracle] if self.oracle else [])]
        separators = {"dataset_hash": ", ", "split_id": ", ", "commit": ", ", "command": " && "}
        joined = {
            name: mark.join(sorted({getattr(model, name) for model in models})) for name, mark in separators.items()
        }
        return joined | {"date": max(model.date for model in models)}

    def ranked(self, target: str) -> list[MeasuredModel]:
        """The models measured on a target, best NDCG@10 first, equals by label."""
        models = [model for model in self.models if target in model.targets]
        return sorted(models, key=lambda model: (-(model.point(target, PRIMARY) or 0.0), model.label))

    def shown(self, target: str) -> list[MeasuredModel]:
        """The oracle, if it was measured on the target, then the ranked models."""
        oracle = [self.oracle] if self.oracle is not None and target in self.oracle.targets else []
        return [*oracle, *self.ranked(target)]


def build_board(
    dataset: str,
    seed: int,
    resamples: int,
    out: Path,
    registered: str | None = None,
    pairs: Sequence[tuple[str, str]] = (),
) -> Board:
    """Read the metrics and rankings of one dataset and compare the models.

    Args:
        seed, resamples: of the bootstrap.
        out: holds metrics/<label>.json and rankings/<label>.parquet.
        registered: label of the model that is registered for the gate.
        pairs: further (model, against) labels to compare.

    Raises:
        CompareError: nothing was measured, or the numbers may not be compared.
    """
    measured = read_metrics(out / "metrics", dataset)
    oracle = next((model for model in measured if model.oracle), None)
    models = [model for model in measured if not model.oracle]
    if not models:
        raise CompareError(f"{out / 'metrics'} holds no model of {dataset!r}, only the oracle; run evaluate")

    @cache
    def read_rankings(path: Path) -> pd.DataFrame:
        return pd.read_parquet(path, columns=RANKING_COLUMNS)

    def frames(model: MeasuredModel) -> list[pd.DataFrame]:
        return [read_rankings(path) for path in model.ranking_files(out / "rankings")]

    lines = comparisons(measured, frames, seed, resamples, [*pairs, *part_pairs(models)])
    aging = [model for model in models if "next_item" in model.targets]
    decay = {model.label: decay_curve(frames(model), seed, resamples) for model in aging}
    return Board(dataset, models, oracle, lines, registered, decay)


def decay_curve(frames: Sequence[pd.DataFrame], seed: int, resamples: int) -> list[dict[str, Any]]:
    """NDCG@10 of `next_item` by period after the cut: days, cases, users, mean and 95% interval by user.

    Weights are frozen at the cut while histories and item trends go on. A falling curve shows what a refit would win
    back, or a harder period: compare models, not days. Periods without cases are left out.
    """
    tables = align_cases(frames, "next_item")
    if not len(tables[0]):
        return []
    values = np.mean([accuracy(true_ranks(table), [HEADLINE])[PRIMARY] for table in tables], axis=0)
    list_times = frames[0].loc[frames[0]["target"] == "horizon", "time"]
    time = tables[0]["time"]
    cut = list_times.min() if len(list_times) else time.min()
    days = (time - cut).dt.total_seconds().to_numpy() / 86_400
    edges = np.linspace(0, np.nextafter(days.max(), np.inf), PERIODS + 1)
    users, row = np.unique(tables[0]["user_id"].to_numpy(str), return_inverse=True)
    period = np.clip(np.searchsorted(edges, days, side="right") - 1, 0, PERIODS - 1)
    inside = period[:, None] == np.arange(PERIODS)
    totals = UserTotals.from_cases(np.where(inside, values[:, None], np.nan), row, len(users))
    return [
        {
            "from_day": edges[number],
            "to_day": edges[number + 1],
            "cases": int(inside[:, number].sum()),
            "users": int((totals.counts[:, number] > 0).sum()),
            **dict(zip(("mean", "low", "high"), map(json_number, column), strict=True)),
        }
        for number, column in enumerate(zip(*intervals(totals, seed, resamples), strict=True))
        if inside[:, number].any()
    ]


def result_file(board: Board) -> dict[str, Any]:
    """The content of experiments/results/<dataset>.json.

    It holds the provenance, the comparisons, and the main metrics of every model with its cold, warm and segment slices.
    """
    result = {
        "dataset": board.dataset,
        **board.provenance,
        "seeds": sorted({seed for model in board.models for seed in model.seeds}),
        "registered": board.registered,
        "best_baseline": board.best_baseline,
        "models": {
            model.label: {
                "fit_seconds": rounded(model.fit_seconds),
                "params": model.params,  # not rounded: that would be another parameter
                "baseline": model.baseline,
                "learned": model.learned,
                "seeds": model.seeds,
                "targets": _target_entries(model),
            }
            for model in board.models
        },
        "comparisons": rounded(board.comparisons),
    }
    if board.decay:
        result["decay"] = rounded(board.decay)
    if board.segments:
        result["segments"] = board.segments
    if board.oracle is not None:  # apart from the models, so that nobody can choose it
        result["oracle"] = {"targets": _target_entries(board.oracle)}
    return result


def rounded(value: Any) -> Any:
    """Round every float in a JSON value to 6 significant digits, so that another machine writes the same file."""
    if isinstance(value, dict):
        return {key: rounded(part) for key, part in value.items()}
    if isinstance(value, list):
        return [rounded(part) for part in value]
    return float(f"{value:.{DIGITS}g}") if isinstance(value, float) else value


def _target_entries(model: MeasuredModel) -> dict[str, Any]:
    slices = (*SLICES, *model.segments)
    entries = {
        target: _target_entry(model.targets[target], METRICS, slices) for target in TARGETS if target in model.targets
    }
    if FROZEN in model.targets:
        entries[FROZEN] = _target_entry(model.targets[FROZEN], [PRIMARY, f"recall@{HEADLINE}"], ())
    return rounded(entries)


def _target_entry(measured: dict[str, Any], keys: Sequence[str], slices: Sequence[str]) -> dict[str, Any]:
    entry: dict[str, Any] = {name: measured[name] for name in ("users", "cases") if name in measured}
    entry["metrics"] = {key: measured["metrics"][key] for key in keys if key in measured["metrics"]}
    if slices:
        entry["slices"] = {name: measured["slices"][name] for name in slices if name in measured.get("slices", {})}
    return entry
