"""A training run that is killed goes on at its last epoch when it is started again.

A checkpoint belongs to one recipe on one set of features with one seed: a run that differs in any of them
starts from nothing. It is removed once the fit is done; what is kept of a model is safetensors.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from contextlib import suppress
from pathlib import Path

import pytorch_lightning as pl
from pytorch_lightning.callbacks import ModelCheckpoint

from features.store import Features

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
