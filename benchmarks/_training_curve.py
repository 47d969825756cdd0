"""How good a model is after each epoch, and what that took: the time that a mark needs, and the speed."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import patch

from config import params
from features.feature_files import Features
from training import validation
from training.network_fit import fit_learned


@dataclass
class LearningCurve:
    """One entry per epoch.

    Attributes:
        epoch_events: events that the model reads in one epoch.
        seconds: of fitting up to the end of the epoch: set-up included, validation left out.
        ndcg: mean NDCG@10 of the `next_item` cases after the epoch.
    """

    epoch_events: int
    seconds: list[float] = field(default_factory=list)
    ndcg: list[float] = field(default_factory=list)

    def seconds_to(self, mark: float) -> float | None:
        """Seconds until the end of the first epoch that is at least as good as the mark; None where none is."""
        return next((s for s, value in zip(self.seconds, self.ndcg, strict=True) if value >= mark), None)

    def figures(self, mark: float) -> dict:
        """What a result file says of the curve."""
        epochs = len(self.seconds)
        return {
            "epochs": epochs,
            "seconds": round(self.seconds[-1], 2),
            "seconds_to_mark": (reached := self.seconds_to(mark)) and round(reached, 2),
            "epochs_per_second": round(epochs / self.seconds[-1], 4),
            "events_per_second": round(self.epoch_events * epochs / self.seconds[-1]),
            "epoch_events": self.epoch_events,
            "curve": [
                {"seconds": round(s, 2), "ndcg@10": round(n, 5)} for s, n in zip(self.seconds, self.ndcg, strict=True)
            ],
        }


class Clock:
    """Seconds since it was made, less those of the work that is wrapped in `without`."""

    def __init__(self, now: Callable[[], float] = time.perf_counter) -> None:
        self.now, self.begun, self.left_out = now, now(), 0.0

    def seconds(self) -> float:
        return self.now() - self.begun - self.left_out

    def without(self, work: Callable) -> Callable:
        """The same work, whose time does not count."""

        def uncounted(*arguments: Any) -> Any:
            begun = self.now()
            try:
                return work(*arguments)
            finally:
                self.left_out += self.now() - begun

        return uncounted


class Reached(Exception):
    """Ends a fit: what it was to show is known."""


def recipe_of(label: str, settings: params.Params) -> dict:
    """Its parameters in params.yaml, trained until validation stops it, as an experiment lets it."""
    recipe = settings.train.models[label].model_dump()
    limits = {"max_epochs": settings.experiment.max_epochs, "max_steps": settings.experiment.max_steps}
    return recipe | {name: max(recipe[name], least) for name, least in limits.items()}


def curve_of(label: str, features: Features, settings: params.Params, cases: int, mark: float) -> LearningCurve:
    """Its curve up to the first epoch that reaches the mark, or to where validation stopped it.

    Args:
        cases: of each target that are ranked after each epoch, drawn by `settings.seed`.
    """
    curve = LearningCurve(int((features.past.items != 0).sum()))
    looks = settings.train.model_copy(update={"early_stopping_cases": cases, "validation_cases": cases})
    recipe, clock = recipe_of(label, settings), Clock()

    def on_epoch(row: dict) -> None:
        curve.seconds.append(clock.seconds())
        curve.ndcg.append(row["valid/next_item/ndcg_10"])
        print(f"{label}: epoch {row['epoch']}, {curve.seconds[-1]:.1f} s, NDCG@10 {curve.ndcg[-1]:.4f}", flush=True)
        if curve.ndcg[-1] >= mark:
            raise Reached

    # All that a fit spends on validation goes through this one function.
    with patch.object(validation, "ndcg", clock.without(validation.ndcg)), suppress(Reached):
        fit_learned(recipe, features, looks, settings.seed, on_epoch)
    return curve
