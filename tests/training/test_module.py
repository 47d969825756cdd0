"""The loss that the hyperparameters name, on a batch of training."""

from __future__ import annotations

import pytest
import torch
from made_features import recipe
from made_modules import batch_of, made


def loss_of(loss: str, certain: bool = False) -> float:
    """Of an untrained two-tower; `certain`: as if every batch held every item, so that there is nothing to correct."""
    hyperparameters = recipe("two_tower", loss=loss, dropout=0.0)
    module = made(hyperparameters)
    if certain:
        module.frequency.interval = torch.ones_like(module.frequency.interval)
    return float(module.loss(batch_of(hyperparameters)).detach())


def test_the_uncorrected_loss_is_the_corrected_one_without_the_correction() -> None:
    assert loss_of("in_batch_uncorrected") == pytest.approx(loss_of("in_batch", certain=True), rel=1e-5)
    assert loss_of("in_batch_uncorrected") == pytest.approx(loss_of("in_batch_uncorrected", certain=True), rel=1e-5)


def test_the_correction_changes_the_loss_where_batches_lack_items() -> None:
    assert abs(loss_of("in_batch") - loss_of("in_batch_uncorrected")) > 1e-3
