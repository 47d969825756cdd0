"""Fit a learned model by gradient: early stopping at `valid`, the same number of looks at each event later."""

from __future__ import annotations

import logging
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.strategies import DDPStrategy

from config import params
from features.feature_files import Features
from training.callbacks import Checkpoint, Curve, OnEpoch, Validation
from training.datamodule import TrainData, Windows
from training.distributed import Place, side_by_side
from training.models.base import ModelError
from training.models.network import LearnedModel
from training.models.registry import build
from training.module import TrainModule
from training.train import FitResult, sizes_of, validation_scores


def fit_learned(
    recipe: dict,
    features: Features,
    settings: params.Train,
    seed: int,
    on_epoch: OnEpoch = None,
    checkpoints: Path | None = None,
    num_devices: int = 1,
) -> FitResult:
    """Train the model that the recipe names on what was known before the cut.

    At the `valid` cut, stops early and returns in `recipe` the `best_steps` and the `train_events` they were
    taken on. At a later cut it takes best_steps * (events now / train_events) steps, without stopping early.

    Args:
        checkpoints: folder for the state after each epoch, from which a killed fit goes on; None keeps none.
        num_devices: how many share each step, a process each. The loss and its gradient are those of one.

    Raises:
        ModelError: the model refuses its parameters, or there is nothing to learn from.
        DevicesError: there are fewer devices, or the process of one has died.
    """
    begun = time.perf_counter()
    with side_by_side(num_devices, follow, recipe, features, settings, seed, checkpoints) as place:
        model, chosen, curves = _fitted(recipe, features, settings, seed, on_epoch, checkpoints, place)
    Checkpoint(checkpoints, recipe, features, seed).done()
    scores = validation_scores(model, features, settings, seed) if features.description["cut"] == "valid" else {}
    return FitResult(model, chosen, time.perf_counter() - begun, scores, curves)


def follow(
    place: Place, recipe: dict, features: Features, settings: params.Train, seed: int, kept: Path | None
) -> None:
    """What every process but the first does: the same, of which nobody asks the result."""
    _fitted(recipe, features, settings, seed, None, kept, place)


def _fitted(
    recipe: dict,
    features: Features,
    settings: params.Train,
    seed: int,
    on_epoch: OnEpoch,
    checkpoints: Path | None,
    place: Place | None,
) -> tuple[LearnedModel, dict, list[dict]]:
    """The trained model, the recipe for the next cut and the curves."""
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
    if features.description["cut"] != "valid" and "best_steps" in recipe:
        steps = max(1, round(recipe["best_steps"] * events / recipe["train_events"]))
        curve = Curve(on_epoch)
        _train(module, windows, {"max_steps": steps, "max_epochs": -1}, curve, checkpoint, place)
        state, chosen = module.average.state_dict(), recipe
    else:
        curve = validation = Validation(features, settings, recipe["patience"], seed, on_epoch)
        limits = {"max_epochs": recipe["max_epochs"], "max_steps": recipe["max_steps"]}
        _train(module, windows, limits, curve, checkpoint, place)
        state = validation.best_state
        chosen = recipe | {"best_steps": validation.best_steps, "train_events": events}
    model.load_state_dict(state)
    return model.cpu().eval(), chosen, curve.curves


def _train(
    module: TrainModule,
    windows: Windows,
    limits: dict,
    callback: Curve,
    checkpoint: Checkpoint,
    place: Place | None,
) -> None:
    trainer = pl.Trainer(
        **devices_for(place),
        logger=False,
        enable_checkpointing=bool(checkpoint.callbacks),
        enable_model_summary=False,
        enable_progress_bar=sys.stderr.isatty() and (place is None or place.rank == 0),
        gradient_clip_val=1.0,
        num_sanity_val_steps=0,
        callbacks=[callback, *checkpoint.callbacks],
        **limits,
    )
    if place is not None:
        place.meet()
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


def devices_for(place: Place | None) -> dict:
    """What the trainer computes on: a GPU where there is one, and there in bfloat16 with float32 weights.

    Not measured on a GPU yet, neither speed nor what bfloat16 does to a score.
    """
    precision = "bf16-mixed" if torch.cuda.is_available() and torch.cuda.is_bf16_supported() else "32-true"
    if place is None:
        return {"accelerator": "auto", "devices": 1, "precision": precision}
    # Buffers are constants, alike in every process: they need not be sent before every step.
    strategy = DDPStrategy(cluster_environment=place, forward_sync_buffers=False)
    accelerator = "cuda" if torch.cuda.is_available() else "cpu"
    return {"accelerator": accelerator, "devices": place.size, "precision": precision, "strategy": strategy}


def _quieten() -> None:
    """No hardware report and no tips: what a fit has to say it says in its result."""
    for name in ("pytorch_lightning", "lightning.pytorch", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
