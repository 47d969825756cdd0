"""Train a network by gradient: early stopping at `valid`, the same number of passes over the events at a later cut."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import sys
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.plugins.environments import TorchElasticEnvironment
from pytorch_lightning.strategies import DDPStrategy

from config import params
from features.feature_files import Features
from features.sequences import EvaluationCases
from features.vocabulary import PAD
from training import validation
from training.datamodule import TrainingBatches
from training.distributed import run_in_processes
from training.metrics import geometric_mean
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
CHECKPOINT_NAME = "epoch"

OnEpoch = Callable[[dict], bool | None] | None  # returns True to end the fit


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
    if (features.past.items == PAD).all():
        name = hyperparameters["name"]
        raise ModelError(f"{name}: no event lies before the cut, so there is nothing to learn from")
    folder = None
    if checkpoints is not None:
        identity = json.dumps([dict(hyperparameters), features.description, seed], sort_keys=True)
        digest = hashlib.blake2b(identity.encode(), digest_size=8).hexdigest()
        folder = checkpoints / f"{hyperparameters['name']}-{digest}"
    task = (hyperparameters, features, settings, seed, folder, num_devices, deadline)
    if num_devices == 1:
        trained = _train(on_epoch, *task)
    else:
        build_model(hyperparameters, features)  # raises ModelError before any process starts
        trained = run_in_processes(num_devices, _train, on_epoch, *task)
    if folder is not None:
        shutil.rmtree(folder, ignore_errors=True)
    return trained


def _train(
    on_epoch: OnEpoch,
    hyperparameters: Mapping[str, Any],
    features: Features,
    settings: params.Train,
    seed: int,
    folder: Path | None,
    num_devices: int,
    deadline: float | None,
) -> TrainedNetwork:
    """The part of one process."""
    for name in ("pytorch_lightning", "lightning.pytorch", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)  # no hardware report and no tips
    pl.seed_everything(seed, workers=True, verbose=False)
    model = build_model(hyperparameters, features)
    assert isinstance(model, Network)
    model.set_content(features.item_features)
    past = features.past
    events = int((past.items != PAD).sum())
    batches = TrainingBatches(features, model.channels, model.hyperparameters, seed)
    module = TrainModule(model, batches, np.bincount(past.items, minlength=len(features.vocabulary)))
    chosen = model.hyperparameters.model_dump()
    curve: Curve
    if features.description["cut"] != "valid" and "best_steps" in hyperparameters:
        chosen |= {name: hyperparameters[name] for name in ("best_steps", "train_events")}
        steps = max(1, round(chosen["best_steps"] * events / chosen["train_events"]))
        limits, curve = {"max_steps": steps, "max_epochs": -1}, Curve(on_epoch, deadline)
    else:
        limits = {name: chosen[name] for name in ("max_epochs", "max_steps")}
        curve = EarlyStopping(features, settings, chosen["patience"], seed, on_epoch, deadline)
    _run_trainer(module, limits, curve, folder, num_devices)
    state = module.average.state_dict()
    if isinstance(curve, EarlyStopping):
        state = curve.best_state
        chosen |= {"best_steps": curve.best_steps, "train_events": events}
    model.load_state_dict(state)
    return TrainedNetwork(model.cpu().eval(), chosen, curve.curves)


def _run_trainer(module: TrainModule, limits: dict, curve: Curve, folder: Path | None, num_devices: int) -> None:
    """Run Lightning's trainer. The file in `folder` is overwritten after each epoch, completely or not at all."""
    callbacks: list[pl.Callback] = [curve]
    checkpoint = None
    if folder is not None:
        callbacks.append(
            ModelCheckpoint(
                folder, CHECKPOINT_NAME, save_top_k=1, save_on_train_epoch_end=True, enable_version_counter=False
            )
        )
        path = folder / f"{CHECKPOINT_NAME}.ckpt"
        checkpoint = str(path) if path.exists() else None
    trainer = pl.Trainer(
        **device_options(num_devices),
        logger=False,
        enable_checkpointing=folder is not None,
        enable_model_summary=False,
        enable_progress_bar=sys.stderr.isatty(),
        gradient_clip_val=1.0,
        num_sanity_val_steps=0,
        callbacks=callbacks,
        **limits,
    )
    with warnings.catch_warnings():
        for message in IGNORED_WARNINGS:
            warnings.filterwarnings("ignore", message=message)
        trainer.fit(module, ckpt_path=checkpoint, weights_only=True)


def device_options(num_devices: int) -> dict:
    """What the trainer computes on: a GPU where there is one, there in bfloat16 with float32 weights.

    Neither the speed on a GPU nor the effect of bfloat16 on scores has been measured yet.
    """
    precision = "bf16-mixed" if torch.cuda.is_available() and torch.cuda.is_bf16_supported() else "32-true"
    if num_devices == 1:
        return {"accelerator": "auto", "devices": 1, "precision": precision}
    # Buffers are constants, equal in every process: they need not be sent before every step.
    strategy = DDPStrategy(cluster_environment=TorchElasticEnvironment(), forward_sync_buffers=False)
    accelerator = "cuda" if torch.cuda.is_available() else "cpu"
    return {"accelerator": accelerator, "devices": num_devices, "precision": precision, "strategy": strategy}


class Curve(pl.Callback):
    """The learning curve: the training loss after each epoch."""

    def __init__(self, on_epoch: OnEpoch, deadline: float | None) -> None:
        self.on_epoch, self.deadline = on_epoch, deadline
        self.curves: list[dict] = []

    def on_train_batch_end(self, trainer: pl.Trainer, *_: object) -> None:
        """End the fit where the time is over. Lightning then ends the epoch early, with its validation."""
        if self.deadline is not None and time.time() > self.deadline:
            trainer.should_stop = True

    def on_train_epoch_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        assert isinstance(module, TrainModule)
        loss = float(sum_over_processes(trainer, module.last_loss.cpu().numpy()))
        row = {"step": module.global_step, "epoch": module.epoch, "train/loss": loss}
        self.validate(row, trainer, module)
        self.curves.append(row)
        stop = self.on_epoch is not None and bool(self.on_epoch(row))
        trainer.should_stop |= trainer.strategy.reduce_boolean_decision(stop, all=False)  # one process decides for all

    def validate(self, row: dict, trainer: pl.Trainer, module: TrainModule) -> None:
        """Nothing: only the `valid` cut has cases to validate on."""

    def state_dict(self) -> dict:
        return {"curves": self.curves}

    def load_state_dict(self, state: dict) -> None:
        self.curves = state["curves"]


class EarlyStopping(Curve):
    """Scores the averaged weights after each epoch, keeps the best, and stops when they no longer improve.

    Best is the highest geometric mean of the two targets' NDCG@10: one percent of either counts the same, whatever
    their levels.
    """

    SAVED = ("best", "best_steps", "best_epoch", "best_state")  # in a checkpoint

    def __init__(
        self,
        features: Features,
        settings: params.Train,
        patience: int,
        seed: int,
        on_epoch: OnEpoch,
        deadline: float | None,
    ) -> None:
        super().__init__(on_epoch, deadline)
        self.features, self.batch_size, self.patience = features, settings.eval_batch_size, patience
        self.trends = features.trend_log()
        self.cases = validation.sampled_cases(features, settings.early_stopping_cases, seed)
        self.best = -1.0
        self.best_steps = self.best_epoch = 0
        self.best_state: dict[str, torch.Tensor] = {}

    def validate(self, row: dict, trainer: pl.Trainer, module: TrainModule) -> None:
        scores = {target: self._score(cases, trainer, module) for target, cases in self.cases.items()}
        row |= {f"valid/{target}/ndcg_10": score for target, score in scores.items()}
        score = geometric_mean(list(scores.values()))
        if score > self.best or not scores:  # without cases nothing shows which epoch is best: the last one stays
            self.best, self.best_steps, self.best_epoch = score, row["step"], row["epoch"]
            self.best_state = {name: value.detach().clone() for name, value in module.average.state_dict().items()}
        trainer.should_stop |= row["epoch"] - self.best_epoch >= self.patience

    def _score(self, cases: EvaluationCases, trainer: pl.Trainer, module: TrainModule) -> float:
        """Mean NDCG@10. Each process ranks its share of the cases, and all come to the same decisions."""
        values, own = np.zeros(len(cases)), np.arange(trainer.global_rank, len(cases), trainer.world_size)
        values[own] = validation.ndcg(module.average, self.features, cases.take(own), self.trends, self.batch_size)
        return float(sum_over_processes(trainer, values).mean())

    def state_dict(self) -> dict:
        return super().state_dict() | {name: getattr(self, name) for name in self.SAVED}

    def load_state_dict(self, state: dict) -> None:
        super().load_state_dict(state)
        for name in self.SAVED:
            setattr(self, name, state[name])


def sum_over_processes(trainer: pl.Trainer, values: np.ndarray) -> np.ndarray:
    """The sum of each value over the processes of a fit; unchanged where there is one process."""
    if trainer.world_size == 1:
        return values
    tensor = torch.from_numpy(np.atleast_1d(values)).to(trainer.strategy.root_device)
    return trainer.strategy.reduce(tensor, reduce_op="sum").cpu().numpy().reshape(values.shape)
