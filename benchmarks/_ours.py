"""Fit one of our networks at the `valid` cut as `training.train` does, until it is as good as a mark."""

from __future__ import annotations

from contextlib import suppress
from unittest.mock import patch

import params
from benchmarks._learning_curve import Clock, LearningCurve
from features.store import Features
from training import validate
from training.gradient import fit_learned


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
        curve.ndcg.append(row["valid/next/ndcg_10"])
        print(f"{label}: epoch {row['epoch']}, {curve.seconds[-1]:.1f} s, NDCG@10 {curve.ndcg[-1]:.4f}", flush=True)
        if curve.ndcg[-1] >= mark:
            raise Reached

    # All that a fit spends on validation goes through this one function.
    with patch.object(validate, "ndcg", clock.without(validate.ndcg)), suppress(Reached):
        fit_learned(recipe, features, looks, settings.seed, on_epoch)
    return curve
