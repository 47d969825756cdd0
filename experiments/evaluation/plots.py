"""Plots of an evaluation, as small Matplotlib figures that MLflow's artifact viewer shows offline."""

from __future__ import annotations

from typing import TYPE_CHECKING

from experiments.evaluation.cases import TARGETS
from training.plots import COLOUR_OF, GREY, panels

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PRIMARY = "ndcg@10"
BY_K = {"NDCG@k": "ndcg", "Recall@k": "recall"}


def of_evaluation(targets: dict) -> dict[str, Figure]:
    """Figures of one model by name; `targets` is what `measure` returned."""
    shown = {target: targets[target] for target in TARGETS if target in targets}
    return {"metrics_by_k": by_k(shown), "ndcg_by_slice": by_slice(shown)}


def by_k(targets: dict) -> Figure:
    """NDCG and Recall by list length, one line per target, with 95% intervals."""
    figure, axes = panels(len(BY_K))
    for axis, (title, metric) in zip(axes, BY_K.items(), strict=True):
        for target, measured in targets.items():
            lengths = sorted(int(key.partition("@")[2]) for key in measured["metrics"] if key.startswith(f"{metric}@")
                             and key.partition("@")[2].isdecimal())  # fmt: skip
            entries = [measured["metrics"][f"{metric}@{k}"] for k in lengths]
            _band(axis, lengths, entries, COLOUR_OF[target], target)
        axis.set(title=title, xlabel="k", ylim=(0, None))
        axis.legend(frameon=False)
    return figure


def by_slice(targets: dict) -> Figure:
    """NDCG@10 of each slice with its 95% interval and number of cases; dashed: over all cases."""
    longest = max(len(measured["slices"]) for measured in targets.values())
    figure, axes = panels(len(targets), height=1.4 + 0.25 * longest, labels=2.1)
    for axis, (target, measured) in zip(axes, targets.items(), strict=True):
        slices = list(measured["slices"].items())[::-1]
        entries = [part["metrics"][PRIMARY] for _, part in slices]
        means, errors = [entry["mean"] for entry in entries], _errors(entries)
        axis.errorbar(means, range(len(slices)), xerr=errors, fmt="o", color=COLOUR_OF[target], capsize=2)
        axis.set_yticks(range(len(slices)), [f"{name} ({part['cases']:,})" for name, part in slices])
        axis.axvline(measured["metrics"][PRIMARY]["mean"], color=GREY, linestyle="--")
        axis.set(title=f"NDCG@10 by slice, {target}", xlim=(0, None))
    return figure


def _band(axis: Axes, xs: list[int], entries: list[dict], colour: str, label: str) -> None:
    axis.plot(xs, [entry["mean"] for entry in entries], color=colour, marker=".", label=label)
    if all(entry["low"] is not None for entry in entries):
        lows, highs = ([entry[bound] for entry in entries] for bound in ("low", "high"))
        axis.fill_between(xs, lows, highs, color=colour, alpha=0.2, linewidth=0)


def _errors(entries: list[dict]) -> list[list[float]]:
    """(2, n) distances from the mean to the bounds; 0 where there is no interval."""
    return [
        [0 if entry["low"] is None else abs(entry[bound] - entry["mean"]) for entry in entries]
        for bound in ("low", "high")
    ]
