"""A checkerboard: users of even number take even items, others odd ones. Everything else about it is chance."""

from __future__ import annotations

import numpy as np
import pandas as pd

from config import params
from config.paths import ROOT
from data.columns import DAY, HOUR
from features.feature_files import Features
from features.sequences import InteractionLog
from features.vocabulary import Vocabulary
from serving.artifact.export_artifact import SideTables
from training.model_factory import load_settings

ITEMS = 40
USERS = 80
CHANNELS = ["all", "window_1d", "half_life_1d", "half_life_7d"]
START = 20_000 * DAY


def checkerboard(seed: int = 0, cut: str = "valid", per_user: int = 12, ties: bool = True) -> Features:
    """Features of `per_user` events a user in 40 days, cut after 30 of them. Item row i is of parity i % 2."""
    rng = np.random.default_rng(seed)
    items = [1 + rng.permutation(np.arange(user % 2, ITEMS, 2))[:per_user] for user in range(USERS)]
    hours = [np.sort(rng.integers(0, 40 * 24, per_user)) for _ in range(USERS)]
    if ties:
        for of_user in hours:
            of_user[3] = of_user[2]
    times = START + np.concatenate(hours) * HOUR
    log = InteractionLog(
        offsets=np.arange(USERS + 1) * per_user,
        items=np.concatenate(items).astype(np.int64),
        times=times.astype(np.int64),
        known=times.astype(np.int64),
        context=rng.integers(0, 3, (USERS * per_user, 1)),
        traits=rng.integers(1, 4, (USERS, 1)),
    )
    return Features(
        vocabulary=Vocabulary([f"item-{number}" for number in range(ITEMS)]),
        log=log,
        users=[f"user-{number}" for number in range(USERS)],
        titles=[None] * ITEMS,
        item_features=np.concatenate([np.zeros((1, 3)), rng.normal(size=(ITEMS, 3))]).astype(np.float32),
        description=description(cut),
    )


def sides() -> SideTables:
    """Side tables of the checkerboard: an item's colour is its parity, a user's side that of their items."""
    people = pd.DataFrame({"user_id": [f"user-{n}" for n in range(USERS)], "side": [n % 2 for n in range(USERS)]})
    colours = [("even", "odd")[n % 2] for n in range(ITEMS)]  # users of even number take item-0, item-2, ...
    sizes = ["small" if n < ITEMS // 2 else "large" for n in range(ITEMS)]
    return SideTables(
        people, pd.DataFrame({"item_id": [f"item-{n}" for n in range(ITEMS)], "colour": colours, "size": sizes})
    )


def description(cut: str) -> dict:
    """What featurize writes with the arrays."""
    return {
        "dataset": "checkerboard", "dataset_hash": "none", "split_id": "none", "numeric_ids": [], "cut": cut, "repeats": "first",
        "cut_us": START + 30 * DAY, "until_us": START + 40 * DAY, "horizon_days": 10, "num_items": ITEMS + 1,
        "encoders": {
            "traits": [{"column": "sex", "values": ["F", "M", "X"]}],
            "context": [{"column": "device", "values": ["tv", "phone"]}],
        },
        "trait_sizes": [4], "context_sizes": [3], "channels": CHANNELS, "refresh_minutes": 10,
    }  # fmt: skip


SMALL = {
    "channels": ["all", "half_life_1d"], "embedding_dim": 16, "num_heads": 2, "max_history": 8, "dropout": 0.1,
    "horizon_samples": 1, "horizon_half_life_days": None, "batch_size": 128, "learning_rate": 0.01, "warmup_steps": 10, "max_epochs": 8,
    "max_steps": 1000, "patience": 8,
}  # fmt: skip
EXTRA = {
    "two_tower": {"num_layers": 1},
    "neural_cf": {"hidden_dim": 16, "num_negatives": 16},
    "sasrec": {"num_layers": 1, "channels": ["all"], "horizon_samples": 0},
    "ials": {"num_factors": 4},
}


def recipe(name: str, **changes: object) -> dict:
    """The shipped parameters of a model, made small where they are many."""
    shipped = load_settings(ROOT / "params.yaml").train.models[name].model_dump()
    if "parts" in shipped:
        shipped["parts"] = {part: recipe(part) for part in shipped["parts"]}
    return shipped | (SMALL if "embedding_dim" in shipped else {}) | EXTRA.get(name, {}) | changes


def train_settings(**changes: object) -> params.Train:
    shipped = params.load(ROOT / "params.yaml").train
    return shipped.model_copy(update={"early_stopping_cases": 50, "validation_cases": 50, **changes})
