"""A data set's results in one value: what the JSON, the Markdown and the HTML page all show."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from experiments.evaluation.bootstrap import Totals, intervals
from experiments.evaluation.cases import TARGETS, align, true_ranks
from experiments.evaluation.comparison import PRIMARY, best_baseline
from experiments.evaluation.measure import HEADLINE, KS, Measured, number
from training.metrics import accuracy

DIGITS = 6  # significant digits kept of every measured number
MAIN = (
    [f"{name}@{HEADLINE}" for name in ("ndcg", "recall", "hr", "map", "coverage", "gini",
    "popularity_percentile",
                                       "novelty", "diversity", "personalization")]
    + ["mrr@100", f"{PRIMARY}_by_user"]
    + [f"{name}@{k}" for name in ("ndcg", "recall") for k in KS if k != HEADLINE]
)  # fmt: skip
MAIN_SLICES = ("cold", "warm")  # and every segment
FROZEN = "next_item_frozen"


@dataclass(frozen=True)
class Board:
    """Models that share one split, best baselines, and the paired comparisons.

    Attributes:
        models: everything that can be deployed, by label.
        oracle: the simulator's best reachable, if there is one.
        registered: label of the model that the gate judges, and so registers; None where none is learned.
        decay: label -> NDCG@10 of `next_item` by period after the cut.
    """

    dataset: str
    models: list[Measured]
    oracle: Measured | None
    comparisons: list[dict[str, Any]]
    registered: str | None
    decay: dict[str, list[dict[str, Any]]]

    @classmethod
    def of(
        cls,
        measured: Sequence[Measured],
        comparisons: list[dict[str, Any]],
        registered: str | None,
        decay: dict[str, list[dict[str, Any]]] | None = None,
    ) -> Board:
        """Sort the measured models into the board of their data set."""
        oracles = [one for one in measured if one.oracle]
        models = sorted((one for one in measured if not one.oracle), key=lambda one: one.label)
        return cls(measured[0].dataset, models, oracles[0] if oracles else None, comparisons, registered, decay or {})

    @property
    def best_baseline(self) -> dict[str, str | None]:
        """Label of the best baseline of each target."""
        return {target: best_baseline(self.models, target) for target in self.targets}

    @property
    def targets(self) -> list[str]:
        """The targets that any model was measured on."""
        return [target for target in TARGETS if any(target in one.targets for one in self.models)]

    @property
    def segments(self) -> dict[str, str]:
        """Slice name of each segment -> its rule in words."""
        return self.models[0].segments

    @property
    def provenance(self) -> dict[str, str]:
        """Where the numbers come from. Models measured by several commands or commits show all of them."""
        everyone = [*self.models, *([self.oracle] if self.oracle else [])]
        joined = {
            name: separator.join(sorted({getattr(one, name) for one in everyone}))
            for name, separator in (
                ("dataset_hash", ", "),
                ("split_id", ", "),
                ("commit", ", "),
                ("command", " && "),
            )
        }
        return joined | {"date": max(one.date for one in everyone)}

    def ranked(self, target: str) -> list[Measured]:
        """The models measured on a target, best NDCG@10 first, equals by label."""
        there = [one for one in self.models if target in one.targets]
        return sorted(there, key=lambda one: (-(one.point(target, PRIMARY) or 0.0), one.label))


def result(board: Board) -> dict[str, Any]:
    """The result file of PROTOCOL: provenance, main metrics and cold, warm and segment slices of every model,
    comparisons. What a segment is stands beside them."""
    whole = {
        "dataset": board.dataset,
        **board.provenance,
        "seeds": sorted({seed for one in board.models for seed in one.seeds}),
        "registered": board.registered,
        "best_baseline": board.best_baseline,
        "models": {one.label: _model(one) for one in board.models},
        "comparisons": rounded(board.comparisons),
    }
    if board.decay:
        whole["decay"] = rounded(board.decay)
    if board.segments:
        whole["segments"] = board.segments
    if board.oracle is not None:  # not a model: nobody may pick it
        whole["oracle"] = {"targets": _targets(board.oracle)}
    return whole


def rounded(value: Any) -> Any:
    """Every float in a JSON value to 6 significant digits, so that a re-run on another machine gives the same
    file."""
    if isinstance(value, dict):
        return {key: rounded(part) for key, part in value.items()}
    if isinstance(value, list):
        return [rounded(part) for part in value]
    return float(f"{value:.{DIGITS}g}") if isinstance(value, float) else value


def _model(one: Measured) -> dict[str, Any]:
    return {
        "fit_seconds": rounded(one.fit_seconds),
        "params": one.params,  # as they were given: a rounded parameter is another parameter
        "baseline": one.baseline,
        "learned": one.learned,
        "seeds": one.seeds,
        "targets": _targets(one),
    }


def _targets(one: Measured) -> dict[str, Any]:
    slices = (*MAIN_SLICES, *one.segments)
    kept = {name: _target(one.targets[name], MAIN, slices) for name in TARGETS if name in one.targets}
    if FROZEN in one.targets:
        kept[FROZEN] = _target(one.targets[FROZEN], [PRIMARY, f"recall@{HEADLINE}"], ())
    return rounded(kept)


def _target(found: dict[str, Any], keys: Sequence[str], slices: Sequence[str]) -> dict[str, Any]:
    kept: dict[str, Any] = {name: found[name] for name in ("users", "cases") if name in found}
    kept["metrics"] = {key: found["metrics"][key] for key in keys if key in found["metrics"]}
    if slices:
        kept["slices"] = {name: found["slices"][name] for name in slices if name in found.get("slices", {})}
    return kept


PERIODS = 8  # of equal length, from the cut to the last case


def decay(frames: Sequence[pd.DataFrame], seed: int, resamples: int) -> list[dict]:
    """NDCG@10 of `next_item` by period after the cut: days, cases, users, mean and 95% interval by user.

    Weights are frozen at the cut while histories and trends go on, so a fall is what refitting would win back,
    or a harder period: compare models, not days. A period without cases is left out.

    Args:
        frames: the rankings of one model, one table per seed.
    """
    tables = align(frames, "next_item")
    if not len(tables[0]):
        return []
    values = np.mean([accuracy(true_ranks(table), [HEADLINE])[f"ndcg@{HEADLINE}"] for table in tables], axis=0)
    window = frames[0].loc[frames[0]["target"] == "horizon", "time"]
    time = tables[0]["time"]
    cut = window.min() if len(window) else time.min()
    days = (time - cut).dt.total_seconds().to_numpy() / 86_400
    edges = np.linspace(0, np.nextafter(days.max(), np.inf), PERIODS + 1)
    users, row = np.unique(tables[0]["user_id"].to_numpy(str), return_inverse=True)
    period = np.clip(np.searchsorted(edges, days, side="right") - 1, 0, PERIODS - 1)
    found = []
    for place in np.unique(period):
        there = period == place
        entry = intervals(Totals.of(values[there, None], row[there], len(users)), seed, resamples)
        found.append(
            {"from_day": edges[place], "to_day": edges[place + 1], "cases": int(there.sum()),
             "users": len(np.unique(row[there])), "mean": number(entry.mean[0]), "low": number(entry.low[0]),
             "high": number(entry.high[0])}
        )  # fmt: skip
    return found
