"""The result file as a table for a terminal: what the demo ends with."""

from __future__ import annotations

from typing import Any

from experiments.evaluation.cases import TARGETS
from experiments.evaluation.comparison import PRIMARY
from experiments.leaderboard.markdown import NOTHING, spread

REACHABLE = "best reachable"


def summary(result: dict[str, Any], primary: str) -> str:
    """One line a model: NDCG@10 of both targets with 95% intervals, and the seconds that its fit took.

    Args:
        result: experiments/results/<dataset>.json.
        primary: the target that orders the lines, best first.
    """
    models = sorted(result["models"].items(), key=lambda pair: -(_mean(pair[1], primary) or 0))
    lines = [[_name(result, label), *_figures(one), f"{one['fit_seconds']:,.1f}"] for label, one in models]
    if "oracle" in result:
        lines.insert(0, [REACHABLE, *_figures(result["oracle"]), NOTHING])
    head = ["model", *(f"{target} NDCG@10 [95%]" for target in TARGETS), "fit s"]
    widths = [max(len(line[column]) for line in [head, *lines]) for column in range(len(head))]
    text = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in [head, *lines]]
    sizes = ", ".join(_size(models[0][1], target) for target in TARGETS)
    return "\n".join([*(line.rstrip() for line in text), f"({sizes}; * best baseline, + the candidate of the gate)"])


def _name(result: dict[str, Any], label: str) -> str:
    best = label in result["best_peer"].values()
    return label + ("*" if best else "") + ("+" if label == result["registered"] else "")


def _figures(one: dict[str, Any]) -> list[str]:
    return [spread(_entry(one, target)) for target in TARGETS]


def _entry(one: dict[str, Any], target: str) -> dict[str, Any]:
    return one["targets"].get(target, {}).get("metrics", {}).get(PRIMARY, {})


def _mean(one: dict[str, Any], target: str) -> float | None:
    return _entry(one, target).get("mean")


def _size(one: dict[str, Any], target: str) -> str:
    found = one["targets"].get(target, {})
    return f"{target}: {found.get('users', 0):,} users, {found.get('cases', 0):,} cases"
