"""Plots of an evaluation and of a study, as small Matplotlib figures that MLflow's artifact viewer shows offline."""

from __future__ import annotations

from typing import TYPE_CHECKING

from experiments.cases import TARGETS
from training.plots import BLUE, COLOUR_OF, GREY, ORANGE, panels

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


def of_study(values: list[tuple[int, float]], parameters: dict[str, list[float]], logarithmic: set[str]) -> Figure:
    """A study's history, and the objective against each parameter that was searched.

    Args:
        values: (number, objective) of each completed trial.
        parameters: what those trials tried, by parameter.
        logarithmic: the parameters that were searched on a logarithmic scale.
    """
    figure, axes = panels(1 + len(parameters), height=3.2, sharey=True)
    numbers, objectives = [number for number, _ in values], [value for _, value in values]
    best = [max(objectives[: end + 1]) for end in range(len(objectives))]
    axes[0].step(numbers, best, where="post", color=ORANGE, label="best so far")
    axes[0].legend(frameon=False)
    axes[0].set(title="objective by trial", xlabel="trial")
    tried: list[list] = [numbers, *parameters.values()]
    for axis, xs in zip(axes, tried, strict=True):
        axis.scatter(xs, objectives, color=BLUE, s=18)
    for axis, name in zip(axes[1:], parameters, strict=True):
        axis.set(title=name, xscale="log" if name in logarithmic else "linear")
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
