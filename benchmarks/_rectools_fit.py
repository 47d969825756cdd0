"""Fit RecTools' SASRec and rank our cases after each epoch. Runs in RecTools' environment and imports nothing of ours.

Usage: python -I _rectools_fit.py FOLDER. FOLDER holds request.json, events.npz and histories.npz; answer.npz and
about.json are written next to them.
"""

from __future__ import annotations

import importlib.metadata
import json
import logging
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytorch_lightning as pl
import torch
from rectools import Columns
from rectools.dataset import Dataset
from rectools.models import SASRecModel


class EpochRecorder(pl.Callback):
    """Keep weights and seconds at the end of each epoch; ranking waits until the fit is over."""

    def __init__(self) -> None:
        self.started = time.perf_counter()
        self.seconds: list[float] = []
        self.weights: list[dict] = []

    def on_train_epoch_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self.seconds.append(time.perf_counter() - self.started)
        self.weights.append({name: value.detach().clone() for name, value in module.state_dict().items()})
        print(f"rectools: epoch {len(self.seconds)} of {trainer.max_epochs}, {self.seconds[-1]:.1f} s", flush=True)


def read_dataset(path: Path) -> Dataset:
    """Read interactions. The order in the file decides among equal times, since RecTools sorts stably."""
    columns = np.load(path)
    frame = pd.DataFrame({
        Columns.User: columns["user"],
        Columns.Item: columns["item"],
        Columns.Weight: 1.0,
        Columns.Datetime: columns["time"].astype("datetime64[us]"),
    })  # fmt: skip
    return Dataset.construct(frame)


def fit_model(folder: Path, request: dict) -> tuple[SASRecModel, EpochRecorder]:
    """The model after its last epoch, and its epochs. Reading the file counts as set-up, and so does its preparation."""
    epochs, number = EpochRecorder(), request["epochs"]
    silent = ("enable_progress_bar", "enable_model_summary", "logger", "enable_checkpointing")

    def trainer() -> pl.Trainer:
        """RecTools' default trainer with one more callback."""
        options = dict.fromkeys(silent, False)
        return pl.Trainer(max_epochs=number, min_epochs=number, devices=1, callbacks=[epochs], **options)

    model = SASRecModel(**request["model"], loss="softmax", epochs=number, get_trainer_func=trainer)
    model.fit(read_dataset(folder / "events.npz"))
    return model, next(one for one in model.fit_trainer.callbacks if isinstance(one, EpochRecorder))  # fit copies it


def rank_cases(model: SASRecModel, histories: Dataset, request: dict) -> np.ndarray:
    """(cases, k) items of each case, best first; 0 where there are no more, or RecTools knows nothing about the user."""
    users = histories.user_id_map.external_ids
    recommended = model.recommend(users, histories, request["k"], filter_viewed=True, on_unsupported_targets="ignore")
    lists = np.zeros((request["cases"], request["k"]), dtype=np.int64)
    lists[recommended[Columns.User], recommended[Columns.Rank] - 1] = recommended[Columns.Item]
    return lists


def main(folder: Path) -> None:
    for name in ("pytorch_lightning", "lightning.pytorch"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.simplefilter("ignore")  # RecTools' own pandas and Lightning calls warn
    request = json.loads((folder / "request.json").read_text(encoding="utf-8"))
    torch.set_num_threads(request["threads"])
    pl.seed_everything(request["seed"], workers=True, verbose=False)
    model, epochs = fit_model(folder, request)
    histories, lists = read_dataset(folder / "histories.npz"), []
    for number, weights in enumerate(epochs.weights, start=1):
        model.lightning_model.load_state_dict(weights)
        lists.append(rank_cases(model, histories, request))
        print(f"rectools: cases ranked as of epoch {number}", flush=True)
    np.savez(folder / "answer.npz", seconds=np.array(epochs.seconds), ranked=np.stack(lists))
    versions = {name: importlib.metadata.version(name) for name in ("rectools", "torch", "pytorch-lightning", "numpy")}
    read = int(model.data_preparator.train_dataset.interactions.df.shape[0])
    (folder / "about.json").write_text(json.dumps({"versions": versions, "epoch_events": read}), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
