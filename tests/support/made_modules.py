"""An untrained network of the checkerboard under its loss, and the first batch that it would be trained on."""

from __future__ import annotations

import numpy as np
import torch
from made_features import checkerboard

from training.datamodule import TrainBatch, TrainingBatches
from training.model_factory import sizes_of
from training.models.base import build, parse
from training.models.network import Network
from training.module import TrainModule

FEATURES = checkerboard()


def made(hyperparameters: dict) -> TrainModule:
    """The same untrained module each time."""
    torch.manual_seed(0)
    model = build(hyperparameters, sizes_of(FEATURES))
    assert isinstance(model, Network)
    counts = np.bincount(FEATURES.past.items, minlength=len(FEATURES.vocabulary))
    return TrainModule(model, batches_of(hyperparameters), counts)


def batches_of(hyperparameters: dict) -> TrainingBatches:
    return TrainingBatches(FEATURES, tuple(hyperparameters["channels"]), parse(hyperparameters), 0)


def batch_of(hyperparameters: dict) -> TrainBatch:
    """The first batch of an epoch."""
    return next(iter(batches_of(hyperparameters)))
