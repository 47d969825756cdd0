"""What is looked at after each epoch: the training loss, and validation that says when to stop.

Legend: n cases.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

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

OnEpoch = Callable[[dict], bool | None] | None  # True: end the fit here


class Curve(pl.Callback):
    """The training loss after each epoch, and whatever `scores` adds to it."""

    def __init__(self, on_epoch: OnEpoch) -> None:
        self.on_epoch = on_epoch
        self.curves: list[dict] = []

    def on_train_epoch_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        assert isinstance(module, TrainModule)
        loss = float(over_all(trainer, module.last_loss.cpu().numpy()))
        row = {"step": module.global_step, "epoch": module.epoch, "train/loss": loss}
        self.look(row, trainer, module)
        self.curves.append(row)
        enough = self.on_epoch is not None and bool(self.on_epoch(row))
        trainer.should_stop |= trainer.strategy.reduce_boolean_decision(enough, all=False)  # one process asks for all

    def look(self, row: dict, trainer: pl.Trainer, module: TrainModule) -> None:
        """At the `test` cut there is nothing to validate on."""

    def state_dict(self) -> dict:
        return {"curves": self.curves}

    def load_state_dict(self, state: dict) -> None:
        self.curves = state["curves"]


class Validation(Curve):
    """Scores the averaged weights after each epoch, keeps the best, stops when they stop getting better.

    Best is the highest geometric mean of the two targets' NDCG@10: one percent of either counts the same,
    whatever their levels. At `test` there is nothing to look at, so the weights are those of the last step.
    """

    KEPT = ("best", "best_steps", "best_epoch", "best_state")  # in a checkpoint

    def __init__(self, features: Features, settings: params.Train, patience: int, seed: int, on_epoch: OnEpoch) -> None:
        super().__init__(on_epoch)
        self.features, self.size, self.patience = features, settings.eval_batch_size, patience
        self.trends = features.trend_log()
        self.cases = {
            target: validation.sample(every, settings.early_stopping_cases, seed)
            for target, every in validation.cases(features).items()
        }
        self.best = -1.0
        self.best_steps = self.best_epoch = 0
        self.best_state: dict[str, torch.Tensor] = {}

    def look(self, row: dict, trainer: pl.Trainer, module: TrainModule) -> None:
        scores = {target: self._score(cases, trainer, module) for target, cases in self.cases.items()}
        row |= {f"valid/{target}/ndcg_10": score for target, score in scores.items()}
        self._judge(geometric_mean(list(scores.values())), row, module)
        trainer.should_stop = row["epoch"] - self.best_epoch >= self.patience

    def _score(self, cases: EvaluationCases, trainer: pl.Trainer, module: TrainModule) -> float:
        """Mean NDCG@10; each process ranks its share of the cases, and all come to the same decisions."""
        values, own = np.zeros(len(cases)), np.arange(trainer.global_rank, len(cases), trainer.world_size)
        values[own] = validation.ndcg(module.average, self.features, cases.take(own), self.trends, self.size)
        return float(over_all(trainer, values).mean())

    def _judge(self, score: float, row: dict, module: TrainModule) -> None:
        if score > self.best:
            self.best, self.best_steps, self.best_epoch = score, row["step"], row["epoch"]
            self.best_state = {name: value.detach().clone() for name, value in module.average.state_dict().items()}

    def state_dict(self) -> dict:
        return super().state_dict() | {name: getattr(self, name) for name in self.KEPT}

    def load_state_dict(self, state: dict) -> None:
        super().load_state_dict(state)
        for name in self.KEPT:
            setattr(self, name, state[name])


def over_all(trainer: pl.Trainer, values: np.ndarray) -> np.ndarray:
    """The sum of each value over the processes of the fit; as it is where there is one."""
    if trainer.world_size == 1:
        return values
    here = torch.from_numpy(np.atleast_1d(values)).to(trainer.strategy.root_device)
    return trainer.strategy.reduce(here, reduce_op="sum").cpu().numpy().reshape(values.shape)


NAME = "epoch"


class Checkpoint:
    """Where one fit's last epoch is kept; a `folder` of None keeps nothing."""

    def __init__(self, root: Path | None, recipe: dict, features: Features, seed: int) -> None:
        identity = [recipe, features.description, seed]
        digest = hashlib.blake2b(json.dumps(identity, sort_keys=True).encode(), digest_size=8).hexdigest()
        self.folder = root / f"{recipe['name']}-{digest}" if root is not None else None

    @property
    def callbacks(self) -> list[pl.Callback]:
        """Writes the newest epoch, whole or not at all, over the one before it."""
        if self.folder is None:
            return []
        kept = ModelCheckpoint(
            self.folder, NAME, save_top_k=1, save_on_train_epoch_end=True, enable_version_counter=False
        )
        return [kept]

    @property
    def found(self) -> str | None:
        """The file to go on from; None where there is none."""
        path = self.folder / f"{NAME}.ckpt" if self.folder is not None else None
        return str(path) if path is not None and path.exists() else None

    def done(self) -> None:
        """Forget it: the fit has ended."""
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)
            with suppress(OSError):  # another fit may keep its own beside it
                self.folder.parent.rmdir()
