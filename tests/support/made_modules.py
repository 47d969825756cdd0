"""An untrained network of the checkerboard under its loss, and the first batch that it would be trained on."""

from __future__ import annotations

import numpy as np
import torch
from made_features import checkerboard

from training.datamodule import TrainBatch, Windows
from training.models.network import LearnedModel
from training.models.registry import build
from training.module import TrainModule
from training.train import sizes_of

FEATURES = checkerboard()


def made(asked: dict) -> TrainModule:
    """The same untrained module each time."""
    torch.manual_seed(0)
    model = build(asked, sizes_of(FEATURES))
    assert isinstance(model, LearnedModel)
    return TrainModule(model, asked, np.bincount(FEATURES.past.items, minlength=len(FEATURES.vocabulary)), 0)


def batch_of(asked: dict) -> TrainBatch:
    """The first batch of an epoch."""
    return next(iter(Windows(FEATURES, tuple(asked["channels"]), asked, 0)))
