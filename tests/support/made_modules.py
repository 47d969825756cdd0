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


def made(asked: dict) -> TrainModule:
    """The same untrained module each time."""
    torch.manual_seed(0)
    model = build(asked, sizes_of(FEATURES))
    assert isinstance(model, Network)
    counts = np.bincount(FEATURES.past.items, minlength=len(FEATURES.vocabulary))
    return TrainModule(model, batches_of(asked), counts)


def batches_of(asked: dict) -> TrainingBatches:
    return TrainingBatches(FEATURES, tuple(asked["channels"]), parse(asked), 0)


def batch_of(asked: dict) -> TrainBatch:
    """The first batch of an epoch."""
    return next(iter(batches_of(asked)))
