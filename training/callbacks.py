"""Callbacks of a fit: the learning curve, early stopping on validation, and the checkpoint of the last epoch."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint

from config import params
from features.feature_files import Features
from features.sequences import EvaluationCases
from training import validation
from training.metrics import geometric_mean
from training.module import TrainModule

OnEpoch = Callable[[dict], bool | None] | None  # returns True to end the fit

CHECKPOINT_NAME = "epoch"


class Curve(pl.Callback):
    """The learning curve: the training loss after each epoch."""

    def __init__(self, on_epoch: OnEpoch, deadline: float | None = None) -> None:
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
        deadline: float | None = None,
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
        if score > self.best:
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


class Checkpoint:
    """The state after the last epoch of one fit; a `root` of None keeps nothing."""

    def __init__(self, root: Path | None, hyperparameters: Mapping[str, Any], features: Features, seed: int) -> None:
        identity = [dict(hyperparameters), features.description, seed]
        digest = hashlib.blake2b(json.dumps(identity, sort_keys=True).encode(), digest_size=8).hexdigest()
        self.folder = root / f"{hyperparameters['name']}-{digest}" if root is not None else None

    @property
    def callbacks(self) -> list[pl.Callback]:
        """Overwrites the file after each epoch, completely or not at all."""
        if self.folder is None:
            return []
        return [
            ModelCheckpoint(
                self.folder, CHECKPOINT_NAME, save_top_k=1, save_on_train_epoch_end=True, enable_version_counter=False
            )
        ]

    @property
    def path(self) -> str | None:
        """The file to continue from; None where there is none."""
        path = self.folder / f"{CHECKPOINT_NAME}.ckpt" if self.folder is not None else None
        return str(path) if path is not None and path.exists() else None

    def remove(self) -> None:
        """Delete it once the fit has ended."""
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)
            with suppress(OSError):  # another fit may keep its checkpoint beside it
                self.folder.parent.rmdir()
