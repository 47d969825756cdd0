"""Plots of a fit, as small Matplotlib figures that MLflow's artifact viewer shows offline.

Matplotlib is imported inside functions and without pyplot: a stage that draws nothing must not wait for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLUE, ORANGE, GREY = "#1565c0", "#ef6c00", "#9e9e9e"
TARGET_COLORS = {"next_item": BLUE, "horizon": ORANGE}


def panels(
    number: int, height: float = 3.6, labels: float = 0.6, sharey: bool = False, across: int | None = None
) -> tuple[Figure, list[Axes]]:
    """A figure of panels, 5 inches wide and `height` high, `across` in a row (by default all).

    `labels` inches are left for the labels of each panel: Matplotlib's own layout takes as long as drawing.
    """
    from matplotlib.figure import Figure

    columns = min(number, across or number)
    rows = -(-number // columns)
    figure = Figure(figsize=(5 * columns, rows * height), dpi=100)
    grid = figure.subplots(rows, columns, squeeze=False, sharey=sharey).flatten()
    axes = list(grid[:number])
    for empty in grid[number:]:
        empty.remove()
    width = 5 - labels - 0.15
    figure.subplots_adjust(
        left=labels / (5 * columns),
        right=1 - 0.15 / (5 * columns),
        wspace=(labels + 0.15) / width,
        bottom=0.5 / (rows * height),
        top=1 - 0.35 / (rows * height),
        hspace=0.85 / (height - 0.85),
    )
    for each in axes:
        each.grid(alpha=0.3)
        each.spines[["top", "right"]].set_visible(False)
    return figure, axes


def learning_curve(curves: list[dict], best_steps: int | None = None) -> Figure:
    """Training loss by step and, where it was measured, validation NDCG@10 of each target, the kept step marked."""
    scored = [name for name in curves[0] if name.endswith("/ndcg_10")]
    figure, axes = panels(2 if scored else 1)
    steps = [row["step"] for row in curves]
    axes[0].plot(steps, [row["train/loss"] for row in curves], color=BLUE, marker=".")
    axes[0].set(title="Training loss", xlabel="step")
    for name in scored:
        target = name.split("/")[1]
        axes[1].plot(steps, [row[name] for row in curves], color=TARGET_COLORS[target], marker=".", label=target)
    if scored:
        axes[1].set(title="NDCG@10 on validation", xlabel="step", ylim=(0, None))
        if best_steps is not None:
            axes[1].axvline(best_steps, color=GREY, linestyle="--", label=f"kept: step {best_steps}")
        axes[1].legend(frameon=False)
    return figure
