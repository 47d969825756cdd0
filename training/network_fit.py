"""Train a network by gradient: early stopping at `valid`, the same number of passes over the events at a later cut."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.strategies import DDPStrategy

from config import params
from features.feature_files import Features
from training.callbacks import Checkpoint, Curve, EarlyStopping, OnEpoch
from training.datamodule import TrainingBatches, TrainingDataModule
from training.distributed import DistributedEnvironment, start_workers
from training.model_factory import build_model
from training.models.base import ModelError
from training.models.network import Network
from training.module import TrainModule

# Lightning's remarks about choices that we make on purpose.
IGNORED_WARNINGS = (
    ".*does not have many workers.*",  # batches are views of arrays: moving them between processes would cost more
    ".*IterableDataset.*",
    ".*LeafSpec.*",  # about Lightning's own use of torch
    ".*module\\(s\\) in eval mode.*",  # the averaged copy, which validation reads
    ".*overridden `transfer_batch_to_device`.*",
    ".*Checkpoint directory .* exists.*",  # an interrupted fit continues from it
)


class TrainedNetwork(NamedTuple):
    """A network after training."""

    model: Network
    hyperparameters: dict[str, Any]  # with `best_steps` and `train_events`, by which a later cut trains
    curves: list[dict]


def train_network(
    hyperparameters: Mapping[str, Any],
    features: Features,
    settings: params.Train,
    seed: int,
    on_epoch: OnEpoch = None,
    checkpoints: Path | None = None,
    num_devices: int = 1,
    deadline: float | None = None,
) -> TrainedNetwork:
    """Train the network on what was known before the cut.

    At the `valid` cut it stops early and finds `best_steps`, and `train_events`, the events that they were taken on.
    At a later cut it takes best_steps * (events now / train_events) steps without early stopping.

    Args:
        checkpoints: folder for the state after each epoch, from which an interrupted fit continues; None keeps none.
        num_devices: how many processes share each step. The loss and its gradient are those of one process.
        deadline: seconds since 1970, after which training ends at the next batch; only of a fit on one device.

    Raises:
        ModelError: the model refuses its hyperparameters, or there is nothing to learn from.
        DevicesError: there are fewer devices, or one of the processes has died.
    """
    checkpoint = Checkpoint(checkpoints, hyperparameters, features, seed)
    with start_workers(num_devices, worker_main, hyperparameters, features, settings, seed, checkpoints) as environment:
        trained = _train(hyperparameters, features, settings, seed, on_epoch, checkpoint, environment, deadline)
    checkpoint.remove()
    return trained


def worker_main(
    environment: DistributedEnvironment,
    hyperparameters: Mapping[str, Any],
    features: Features,
    settings: params.Train,
    seed: int,
    checkpoints: Path | None,
) -> None:
    """What every process but the first runs: the same training, whose result nobody reads."""
    checkpoint = Checkpoint(checkpoints, hyperparameters, features, seed)
    _train(hyperparameters, features, settings, seed, None, checkpoint, environment)


def _train(
    hyperparameters: Mapping[str, Any],
    features: Features,
    settings: params.Train,
    seed: int,
    on_epoch: OnEpoch,
    checkpoint: Checkpoint,
    environment: DistributedEnvironment | None,
    deadline: float | None = None,
) -> TrainedNetwork:
    for name in ("pytorch_lightning", "lightning.pytorch", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)  # no hardware report and no tips
    pl.seed_everything(seed, workers=True, verbose=False)
    model = build_model(hyperparameters, features)
    assert isinstance(model, Network)
    model.set_content(features.item_features)
    past = features.past
    events = int((past.items != 0).sum())
    if events == 0:
        raise ModelError(f"{model.name}: no event lies before the cut, so there is nothing to learn from")
    batches = TrainingBatches(features, model.channels, model.hyperparameters, seed)
    module = TrainModule(model, np.bincount(past.items, minlength=len(features.vocabulary)), seed)
    chosen = model.hyperparameters.model_dump()
    if features.description["cut"] != "valid" and "best_steps" in hyperparameters:
        chosen |= {name: hyperparameters[name] for name in ("best_steps", "train_events")}
        steps = max(1, round(chosen["best_steps"] * events / chosen["train_events"]))
        curve = Curve(on_epoch, deadline)
        _run_trainer(module, batches, {"max_steps": steps, "max_epochs": -1}, curve, checkpoint, environment)
        state = module.average.state_dict()
    else:
        curve = stopping = EarlyStopping(features, settings, model.hyperparameters.patience, seed, on_epoch, deadline)
        limits = {"max_epochs": model.hyperparameters.max_epochs, "max_steps": model.hyperparameters.max_steps}
        _run_trainer(module, batches, limits, curve, checkpoint, environment)
        state = stopping.best_state
        chosen |= {"best_steps": stopping.best_steps, "train_events": events}
    model.load_state_dict(state)
    return TrainedNetwork(model.cpu().eval(), chosen, curve.curves)


def _run_trainer(
    module: TrainModule,
    batches: TrainingBatches,
    limits: dict,
    curve: Curve,
    checkpoint: Checkpoint,
    environment: DistributedEnvironment | None,
) -> None:
    trainer = pl.Trainer(
        **device_options(environment),
        logger=False,
        enable_checkpointing=bool(checkpoint.callbacks),
        enable_model_summary=False,
        enable_progress_bar=sys.stderr.isatty() and (environment is None or environment.rank == 0),
        gradient_clip_val=1.0,
        num_sanity_val_steps=0,
        callbacks=[curve, *checkpoint.callbacks],
        **limits,
    )
    if environment is not None:
        environment.barrier()
    with warnings.catch_warnings():
        for message in IGNORED_WARNINGS:
            warnings.filterwarnings("ignore", message=message)
        trainer.fit(module, datamodule=TrainingDataModule(batches), ckpt_path=checkpoint.path, weights_only=True)


def device_options(environment: DistributedEnvironment | None) -> dict:
    """What the trainer computes on: a GPU where there is one, there in bfloat16 with float32 weights.

    Neither the speed on a GPU nor the effect of bfloat16 on scores has been measured yet.
    """
    precision = "bf16-mixed" if torch.cuda.is_available() and torch.cuda.is_bf16_supported() else "32-true"
    if environment is None:
        return {"accelerator": "auto", "devices": 1, "precision": precision}
    # Buffers are constants, equal in every process: they need not be sent before every step.
    strategy = DDPStrategy(cluster_environment=environment, forward_sync_buffers=False)
    accelerator = "cuda" if torch.cuda.is_available() else "cpu"
    return {"accelerator": accelerator, "devices": environment.size, "precision": precision, "strategy": strategy}
