"""The plot of a study, as a small Matplotlib figure that MLflow's artifact viewer shows offline."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from search_space import Choice, Space
from training.plots import BLUE, GREY, ORANGE, panels

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def of_study(trials: list[tuple[int, float, dict]], spaces: dict[str, Space]) -> Figure:
    """A study's history, and the objective against each parameter that was searched.

    Args:
        trials: (number, objective, parameters) of each completed trial.
    """
    figure, axes = panels(1 + len(spaces), height=3.2, sharey=True, across=4)
    numbers, objectives = [number for number, _, _ in trials], [value for _, value, _ in trials]
    best = [max(objectives[: end + 1]) for end in range(len(objectives))]
    axes[0].step(numbers, best, where="post", color=ORANGE, label="best so far")
    axes[0].scatter(numbers, objectives, color=BLUE, s=18)
    axes[0].legend(frameon=False)
    axes[0].set(title="objective by trial", xlabel="trial")
    for axis, (name, space) in zip(axes[1:], spaces.items(), strict=True):
        tried = [(parameters[name], value) for _, value, parameters in trials if name in parameters]
        if isinstance(space, Choice):
            tried = [(space.values.index(at), value) for at, value in tried]
            axis.set_xticks(range(len(space.values)), [str(value) for value in space.values])
            axis.set_xlim(-0.5, len(space.values) - 0.5)
        else:
            axis.set_xscale("log" if space.log else "linear")
        axis.scatter([at for at, _ in tried], [value for _, value in tried], color=BLUE, s=18)
        axis.set_title(name)
    return figure


def of_front(trials: list, front: list, objectives: Sequence[str]) -> Figure:
    """Accuracy against each other objective, with the front of all of them marked.

    Args:
        trials: every completed trial, `values` in the order of the objectives; `front` those that nothing beats.
    """
    figure, axes = panels(len(objectives) - 1, height=3.6, sharey=True)
    for place, axis in enumerate(axes, start=1):
        axis.scatter([one.values[place] for one in trials], [one.values[0] for one in trials], color=GREY, s=18)
        axis.scatter([one.values[place] for one in front], [one.values[0] for one in front], color=ORANGE, s=28)
        for one in front:
            axis.annotate(str(one.number), (one.values[place], one.values[0]), fontsize=8)
        axis.set(title=f"{objectives[0]} against {objectives[place]}", xlabel=objectives[place])
    return figure
