"""The stages themselves, in this process, over a small simulated platform or a file: what `dvc repro` runs."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

from config.paths import ROOT
from data import ingest, split
from experiments import evaluate
from features import featurize
from serving import export
from training import provenance, train

BASELINES = ("popularity", "popularity_7d", "item_knn", "ease")
SMALL_NETWORK = {
    "embedding_dim": 32,
    "max_history": 20,
    "max_steps": 250,
    "max_epochs": 8,
    "warmup_steps": 20,
    "patience": 8,
}
SIMULATE = {"users": 700, "items": 150, "events": 25_000, "days": 90}
SAMPLES = {"early_stopping_cases": 300, "validation_cases": 600}


@contextmanager
def inside(folder: Path) -> Iterator[Path]:
    """Work in a folder, as DVC does in the project's; runs are tracked beside it."""
    before = Path.cwd()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TIDEGATE_STATE", f"{folder}/state")
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/mlflow.db")
        patch.setattr(provenance, "checkout", lambda: ("tested", []))
        os.chdir(folder)
        try:
            yield folder
        finally:
            os.chdir(before)


def write_params(folder: Path, models: tuple[str, ...], **ingested: object) -> None:
    """The shipped settings with a small simulator, small networks and these models; keywords change `ingest`."""
    settings = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    settings["simulate"] |= SIMULATE
    settings["ingest"] |= ingested
    shipped = settings["train"]["models"]
    chosen = {label: shipped[label] | (SMALL_NETWORK if "embedding_dim" in shipped[label] else {}) for label in models}
    settings["train"] |= SAMPLES | {"models": chosen}
    settings["tune"]["spaces"] = {k: space for k, space in settings["tune"]["spaces"].items() if k in models}
    settings["evaluate"]["resamples"] = 200
    (folder / "params.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")


def run_stages(folder: Path, models: tuple[str, ...], **ingested: object) -> Path:
    """Everything from ingest to evaluate, as the stages do it; products lie in `folder` as in the project."""
    write_params(folder, models, **ingested)
    with inside(folder):
        commands = [(ingest, []), (split, []), (featurize, ["--cut", "valid"]), (featurize, ["--cut", "test"])]
        for label in models:
            one = ["--model", label]
            commands += [(train, [*one, "--cut", "valid"]), (train, [*one, "--cut", "test"])]
            commands += [(export, one), (evaluate, one)]
        for module, arguments in commands:
            assert module.main(arguments) == 0, f"{module.__name__} {arguments}"
    return folder
