"""Runs in RecTools' own environment, so it imports nothing of ours: fit its SASRec, rank our cases after each epoch.

Usage: python -I _rectools_fit.py FOLDER. FOLDER holds request.json, events.npz and histories.npz; answer.npz and
about.json are written beside them.
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


class Epochs(pl.Callback):
    """Keeps the weights after each epoch, and the second at which it ended: ranking waits until the fit is over."""

    def __init__(self) -> None:
        self.begun = time.perf_counter()
        self.seconds: list[float] = []
        self.weights: list[dict] = []

    def on_train_epoch_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self.seconds.append(time.perf_counter() - self.begun)
        self.weights.append({name: value.detach().clone() for name, value in module.state_dict().items()})
        print(f"rectools: epoch {len(self.seconds)} of {trainer.max_epochs}, {self.seconds[-1]:.1f} s", flush=True)


def dataset_of(path: Path) -> Dataset:
    """Interactions whose order in the file decides among equal times, since RecTools sorts stably."""
    columns = np.load(path)
    frame = pd.DataFrame({
        Columns.User: columns["user"],
        Columns.Item: columns["item"],
        Columns.Weight: 1.0,
        Columns.Datetime: columns["time"].astype("datetime64[us]"),
    })  # fmt: skip
    return Dataset.construct(frame)


def fitted(folder: Path, request: dict) -> tuple[SASRecModel, Epochs]:
    """The model after its last epoch. Reading the file counts as set-up, as does what the library makes of it."""
    epochs = Epochs()
    dataset = dataset_of(folder / "events.npz")

    def trainer() -> pl.Trainer:
        """RecTools' default trainer, with a callback more."""
        return pl.Trainer(
            max_epochs=request["epochs"], min_epochs=request["epochs"], enable_progress_bar=False, devices=1,
            enable_model_summary=False, logger=False, enable_checkpointing=False, callbacks=[epochs],
        )  # fmt: skip

    model = SASRecModel(**request["model"], loss="softmax", epochs=request["epochs"], get_trainer_func=trainer)
    model.fit(dataset)
    return model, next(one for one in model.fit_trainer.callbacks if isinstance(one, Epochs))  # fit copies it


def ranked(model: SASRecModel, histories: Dataset, request: dict) -> np.ndarray:
    """(cases, k) items of each case, best first; 0 where there are no more, or RecTools knows nothing to go by."""
    users = histories.user_id_map.external_ids
    found = model.recommend(users, histories, request["k"], filter_viewed=True, on_unsupported_targets="ignore")
    lists = np.zeros((request["cases"], request["k"]), dtype=np.int64)
    lists[found[Columns.User], found[Columns.Rank] - 1] = found[Columns.Item]
    return lists


def main(folder: Path) -> None:
    for name in ("pytorch_lightning", "lightning.pytorch"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.simplefilter("ignore")  # the library's own, about its pandas and Lightning calls
    request = json.loads((folder / "request.json").read_text())
    torch.set_num_threads(request["threads"])
    pl.seed_everything(request["seed"], workers=True, verbose=False)
    model, epochs = fitted(folder, request)
    histories, lists = dataset_of(folder / "histories.npz"), []
    for number, weights in enumerate(epochs.weights, start=1):
        model.lightning_model.load_state_dict(weights)
        lists.append(ranked(model, histories, request))
        print(f"rectools: cases ranked as of epoch {number}", flush=True)
    np.savez(folder / "answer.npz", seconds=np.array(epochs.seconds), ranked=np.stack(lists))
    versions = {name: importlib.metadata.version(name) for name in ("rectools", "torch", "pytorch-lightning", "numpy")}
    read = int(model.data_preparator.train_dataset.interactions.df.shape[0])
    (folder / "about.json").write_text(json.dumps({"versions": versions, "epoch_events": read}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
