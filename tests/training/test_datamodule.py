"""Batches show nothing that could not be known, and the shares of a batch have its gradient between them."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from made_features import START, checkerboard, recipe
from made_modules import FEATURES, batch_of, made
from torch import Tensor

from data.columns import DAY
from features.feature_files import Features
from training.datamodule import TrainBatch, TrainingBatches, shard_batch
from training.models.base import parse

LOSSES = [
    ("two_tower", "full_softmax"),
    ("two_tower", "in_batch"),
    ("neural_cf", "sampled_softmax"),
    ("neural_cf", "bce"),
    ("sasrec", "full_softmax"),
]


def gradient(hyperparameters: dict, batch: TrainBatch, processes: int = 1) -> Tensor:
    """All of one process's gradients in a row, as DDP would average them over so many processes."""
    module, trainer = made(hyperparameters), SimpleNamespace(world_size=processes)
    module.trainer = trainer
    module.training_step(batch, 0).backward()
    return torch.cat([one.grad.flatten() for one in module.model.parameters()])


@pytest.mark.parametrize("processes", [2, 3, 50])  # 50 are more than there are histories
@pytest.mark.parametrize(("name", "loss"), LOSSES)
def test_the_mean_of_the_shares_gradients_is_the_batchs(name: str, loss: str, processes: int) -> None:
    hyperparameters = recipe(name, loss=loss, dropout=0.0)
    batch = batch_of(hyperparameters)
    shares = [gradient(hyperparameters, shard_batch(batch, rank, processes), processes) for rank in range(processes)]

    assert torch.stack(shares).mean(dim=0) == pytest.approx(gradient(hyperparameters, batch), rel=1e-4, abs=1e-6)


@pytest.mark.parametrize(("name", "loss"), LOSSES)
def test_shares_that_each_weigh_themselves_in_full_have_another_gradient(name: str, loss: str) -> None:
    hyperparameters = recipe(name, loss=loss, dropout=0.0)
    batch = batch_of(hyperparameters)
    own = [shard_batch(batch, rank, 2) for rank in (0, 1)]
    alone = [replace(one, weight=one.weight / one.weight.sum()) for one in own]
    wrong = torch.stack([gradient(hyperparameters, one) for one in alone]).mean(dim=0)

    assert own[0].weight.sum() != pytest.approx(0.5, rel=1e-3), "the halves are uneven"
    assert wrong != pytest.approx(gradient(hyperparameters, batch), rel=1e-4, abs=1e-6)


def test_every_target_and_every_seen_item_is_in_one_share() -> None:
    hyperparameters = recipe("two_tower")
    batch = batch_of(hyperparameters)
    parts = [shard_batch(batch, rank, 3) for rank in range(3)]

    assert sorted(torch.cat([part.batch_position for part in parts]).tolist()) == list(range(len(batch.target_item)))
    assert sum(float(part.weight.sum()) for part in parts) == pytest.approx(float(batch.weight.sum()))
    for part in parts:
        assert torch.equal(part.target_item, batch.batch_items[part.batch_position])
        moments, whole = part.query.time[part.target_query], batch.query.time[batch.target_query[part.batch_position]]
        assert torch.equal(moments, whole)
    assert sum(part.seen.shape[1] for part in parts) == batch.seen.shape[1]


def test_one_process_has_the_batch_itself() -> None:
    batch = batch_of(recipe("two_tower"))

    assert shard_batch(batch, 0, 1) is batch


@pytest.mark.parametrize(("name", "loss"), LOSSES)
def test_a_step_in_bfloat16_is_a_coarser_one_in_float32(name: str, loss: str) -> None:
    hyperparameters = recipe(name, loss=loss, dropout=0.0)
    batch = batch_of(hyperparameters)
    exact = gradient(hyperparameters, batch)
    with torch.autocast("cpu", torch.bfloat16):
        coarse = gradient(hyperparameters, batch)

    assert not torch.equal(coarse, exact)
    assert torch.cosine_similarity(coarse, exact, dim=0) > 0.99


def test_the_table_of_trends_moves_to_a_device_once() -> None:
    module, trainer = made(recipe("two_tower")), SimpleNamespace(world_size=1, global_rank=0)
    module.trainer = trainer
    batch = batch_of(recipe("two_tower"))
    first, second = (module.transfer_batch_to_device(batch, torch.device("meta"), 0) for _ in range(2))

    assert first.target_item.is_meta
    assert first.query.trends.is_meta
    assert second.query.trends is first.query.trends


def training_batches(features: Features = FEATURES, **changes: object) -> TrainingBatches:
    return TrainingBatches(features, ("all",), parse(recipe("two_tower", **changes)), seed=0)


@pytest.fixture(scope="module")
def batches_with_both() -> TrainingBatches:
    return training_batches(horizon_samples=2)


def test_an_epoch_predicts_every_event_before_the_cut_once(batches_with_both: TrainingBatches) -> None:
    targets = np.concatenate([batch.target_item.numpy() for batch in training_batches(horizon_weight=0.0)])

    assert sorted(targets) == sorted(batches_with_both.timeline.items)


def test_no_batch_shows_an_event_at_or_after_the_time_of_its_case(batches_with_both: TrainingBatches) -> None:
    batches = list(batches_with_both)

    assert batches
    for batch in batches:
        query = batch.query
        for row in range(len(query)):
            shown = query.item_times[query.row[row], : query.position[row]]
            assert (shown < query.time[row]).all()
            assert (shown > 0).all()
        moments = batches_with_both.table.moments[query.moment.numpy()]
        assert (moments <= query.time.numpy()).all()
        assert (query.time.numpy() < START + 30 * DAY).all()
        history = set(zip(*(part.tolist() for part in batch.seen), strict=True))
        assert not history & set(zip(batch.target_query.tolist(), batch.target_item.tolist(), strict=True))


def test_weights_of_a_batch_are_split_between_the_two_targets(batches_with_both: TrainingBatches) -> None:
    batches = list(batches_with_both)

    assert batches
    for batch in batches:
        assert batch.weight.sum().item() == pytest.approx(1, abs=0.21)  # less where a batch has no horizon case


def test_trends_that_training_reads_hold_nothing_of_the_time_of_a_case() -> None:
    features = checkerboard()
    table = training_batches(features).table
    changed = replace(
        features,
        log=replace(features.log, items=np.where(features.log.times >= START + 20 * DAY, 1, features.log.items)),
    )
    other = training_batches(changed).table
    early = table.moments <= START + 20 * DAY

    np.testing.assert_array_equal(table.moments, other.moments)
    np.testing.assert_array_equal(table.values[early].numpy(), other.values[early].numpy())
    assert not np.array_equal(table.values[~early].numpy(), other.values[~early].numpy())
