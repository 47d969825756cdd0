"""The shares of a batch, each with the whole batch's weights, have its gradient between them, however uneven."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from made_features import recipe
from made_modules import batch_of, made
from torch import Tensor

from training.datamodule import TrainBatch, share

LOSSES = [
    ("two_tower", "full_softmax"),
    ("two_tower", "in_batch"),
    ("neural_cf", "sampled_softmax"),
    ("neural_cf", "bce"),
    ("sasrec", "full_softmax"),
]


def gradient(asked: dict, batch: TrainBatch, processes: int = 1) -> Tensor:
    """All of one process's gradients in a row, as DDP would average them over so many processes."""
    module, trainer = made(asked), SimpleNamespace(world_size=processes)
    module.trainer = trainer
    module.training_step(batch, 0).backward()
    return torch.cat([one.grad.flatten() for one in module.model.parameters()])


@pytest.mark.parametrize("processes", [2, 3, 50])  # 50 are more than there are histories
@pytest.mark.parametrize(("name", "loss"), LOSSES)
def test_the_mean_of_the_shares_gradients_is_the_batchs(name: str, loss: str, processes: int) -> None:
    asked = recipe(name, loss=loss, dropout=0.0)
    batch = batch_of(asked)
    shares = [gradient(asked, share(batch, rank, processes), processes) for rank in range(processes)]

    assert torch.stack(shares).mean(dim=0) == pytest.approx(gradient(asked, batch), rel=1e-4, abs=1e-6)


@pytest.mark.parametrize(("name", "loss"), LOSSES)
def test_shares_that_each_weigh_themselves_in_full_have_another_gradient(name: str, loss: str) -> None:
    asked = recipe(name, loss=loss, dropout=0.0)
    batch = batch_of(asked)
    own = [share(batch, rank, 2) for rank in (0, 1)]
    alone = [replace(one, weight=one.weight / one.weight.sum()) for one in own]
    wrong = torch.stack([gradient(asked, one) for one in alone]).mean(dim=0)

    assert own[0].weight.sum() != pytest.approx(0.5, rel=1e-3), "the halves are uneven"
    assert wrong != pytest.approx(gradient(asked, batch), rel=1e-4, abs=1e-6)


def test_every_target_and_every_seen_item_is_in_one_share() -> None:
    asked = recipe("two_tower")
    batch = batch_of(asked)
    parts = [share(batch, rank, 3) for rank in range(3)]

    assert sorted(torch.cat([part.drawn for part in parts]).tolist()) == list(range(len(batch.item)))
    assert sum(float(part.weight.sum()) for part in parts) == pytest.approx(float(batch.weight.sum()))
    for part in parts:
        assert torch.equal(part.item, batch.among[part.drawn])
        moments, whole = part.query.time[part.question], batch.query.time[batch.question[part.drawn]]
        assert torch.equal(moments, whole)
    assert sum(part.seen.shape[1] for part in parts) == batch.seen.shape[1]


def test_one_process_has_the_batch_itself() -> None:
    batch = batch_of(recipe("two_tower"))

    assert share(batch, 0, 1) is batch


@pytest.mark.parametrize(("name", "loss"), LOSSES)
def test_a_step_in_bfloat16_is_a_coarser_one_in_float32(name: str, loss: str) -> None:
    asked = recipe(name, loss=loss, dropout=0.0)
    batch = batch_of(asked)
    exact = gradient(asked, batch)
    with torch.autocast("cpu", torch.bfloat16):
        coarse = gradient(asked, batch)

    assert not torch.equal(coarse, exact)
    assert torch.cosine_similarity(coarse, exact, dim=0) > 0.99


def test_the_table_of_trends_moves_to_a_device_once() -> None:
    module, trainer = made(recipe("two_tower")), SimpleNamespace(world_size=1, global_rank=0)
    module.trainer = trainer
    batch = batch_of(recipe("two_tower"))
    first, second = (module.transfer_batch_to_device(batch, torch.device("meta"), 0) for _ in range(2))

    assert first.item.is_meta
    assert first.query.trends.is_meta
    assert second.query.trends is first.query.trends
