"""Fit a learned model by gradient: early stopping at `valid`, the same number of looks at each event at `test`."""

from __future__ import annotations

import logging
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytorch_lightning as pl
import torch

import params
from features.store import Features
from training import validate
from training.checkpoint import Checkpoint
from training.datamodule import TrainData, Windows
from training.metrics import geometric_mean
from training.models.base import ModelError
from training.models.build import build
from training.models.learned import LearnedModel
from training.module import TrainModule
from training.train import FitResult, sizes_of, validation_scores

OnEpoch = Callable[[dict], None] | None


class Curve(pl.Callback):
    """The training loss after each epoch, and whatever `scores` adds to it."""

    def __init__(self, on_epoch: OnEpoch) -> None:
        self.on_epoch = on_epoch
        self.curves: list[dict] = []

    def on_train_epoch_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        assert isinstance(module, TrainModule)
        row = {"step": module.global_step, "epoch": module.epoch, "train/loss": module.last_loss}
        self.look(row, trainer, module)
        self.curves.append(row)
        if self.on_epoch is not None:
            self.on_epoch(row)

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
        self.features, self.size, self.patience = features, settings.batch_cases, patience
        self.trends = features.trend_log()
        self.cases = {
            target: validate.sample(every, settings.early_stopping_cases, seed)
            for target, every in validate.cases(features).items()
        }
        self.best = -1.0
        self.best_steps = self.best_epoch = 0
        self.best_state: dict[str, torch.Tensor] = {}

    def look(self, row: dict, trainer: pl.Trainer, module: TrainModule) -> None:
        scores = {
            target: float(validate.ndcg(module.average, self.features, cases, self.trends, self.size).mean())
            for target, cases in self.cases.items()
        }
        row |= {f"valid/{target}/ndcg_10": score for target, score in scores.items()}
        self._judge(geometric_mean(list(scores.values())), row, module)
        trainer.should_stop = row["epoch"] - self.best_epoch >= self.patience

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


def fit_learned(
    recipe: dict,
    features: Features,
    settings: params.Train,
    seed: int,
    on_epoch: OnEpoch = None,
    checkpoints: Path | None = None,
) -> FitResult:
    """Train the model that the recipe names on what was known before the cut.

    At the `valid` cut, stops early and returns in `recipe` the `best_steps` and the `train_events` they were
    taken on. At the `test` cut it takes best_steps * (events now / train_events) steps, without stopping early.

    Args:
        checkpoints: folder for the state after each epoch, from which a killed fit goes on; None keeps none.

    Raises:
        ModelError: the model refuses its parameters, or there is nothing to learn from.
    """
    begun = time.perf_counter()
    _quieten()
    pl.seed_everything(seed, workers=True, verbose=False)
    model = build(recipe, sizes_of(features))
    assert isinstance(model, LearnedModel)
    model.set_content(features.item_features)
    past = features.past
    events = int((past.items != 0).sum())
    if events == 0:
        raise ModelError(f"{recipe['name']}: no event lies before the cut, so there is nothing to learn from")
    windows = Windows(features, model.channels, recipe, seed)
    counts = np.bincount(past.items, minlength=len(features.vocabulary))
    module = TrainModule(model, recipe, counts, seed)
    checkpoint = Checkpoint(checkpoints, recipe, features, seed)
    cut = features.description["cut"]
    if cut == "test" and "best_steps" in recipe:
        steps = max(1, round(recipe["best_steps"] * events / recipe["train_events"]))
        curves = _train(module, windows, {"max_steps": steps, "max_epochs": -1}, Curve(on_epoch), checkpoint)
        state, chosen = module.average.state_dict(), recipe
    else:
        validation = Validation(features, settings, recipe["patience"], seed, on_epoch)
        limits = {"max_epochs": recipe["max_epochs"], "max_steps": recipe["max_steps"]}
        curves = _train(module, windows, limits, validation, checkpoint)
        state = validation.best_state
        chosen = recipe | {"best_steps": validation.best_steps, "train_events": events}
    checkpoint.done()
    model.load_state_dict(state)
    model = model.cpu().eval()
    scores = validation_scores(model, features, settings, seed) if cut == "valid" else {}
    return FitResult(model, chosen, time.perf_counter() - begun, scores, curves)


def _train(module: TrainModule, windows: Windows, limits: dict, callback: Curve, checkpoint: Checkpoint) -> list[dict]:
    trainer = pl.Trainer(
        accelerator="auto",
        devices=1,
        logger=False,
        enable_checkpointing=bool(checkpoint.callbacks),
        enable_model_summary=False,
        enable_progress_bar=sys.stderr.isatty(),
        gradient_clip_val=1.0,
        num_sanity_val_steps=0,
        callbacks=[callback, *checkpoint.callbacks],
        **limits,
    )
    with warnings.catch_warnings():
        # One process feeds the batches: they are made of views and cost less than moving them would.
        warnings.filterwarnings("ignore", message=".*does not have many workers.*")
        warnings.filterwarnings("ignore", message=".*IterableDataset.*")
        # Said of Lightning's own use of torch, and of the averaged copy that validation reads.
        warnings.filterwarnings("ignore", message=".*LeafSpec.*")
        warnings.filterwarnings("ignore", message=".*module\\(s\\) in eval mode.*")
        warnings.filterwarnings("ignore", message=".*overridden `transfer_batch_to_device`.*")
        warnings.filterwarnings("ignore", message=".*Checkpoint directory .* exists.*")  # ours: it is gone on from
        trainer.fit(module, datamodule=TrainData(windows), ckpt_path=checkpoint.found, weights_only=True)
    return callback.curves


def _quieten() -> None:
    """No hardware report and no tips: what a fit has to say it says in its result."""
    for name in ("pytorch_lightning", "lightning.pytorch", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
