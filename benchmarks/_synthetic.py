"""Synthetic data for benchmarks: a small service, and large catalogs whose vectors extrapolate a trained two_tower.

Shapes: N item rows (including PAD's), M trained items, D vector size, C trend channels, U users.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from safetensors.torch import save_file
from torch import Tensor

from config import params
from data.columns import DAY, HOUR, ITEM, USER
from features.feature_files import Features
from features.online.profile import Event, Profile, TimedValue, make_profile
from features.sequences import InteractionLog
from features.vocabulary import Vocabulary
from serving.artifact import export_artifact
from serving.artifact.export_artifact import SideTables
from training.fitting import FitResult, fit
from training.models.artifact import MANIFEST

NAME = "bench"
START = 1_751_328_000_000_000  # 2025-07-01T00:00:00Z
DAYS = 120
CONTENT_WIDTH = 32
PLANS, GENRES = ("free", "trial", "paid"), ("Drama", "Comedy", "Horror", "Crime")
# What featurize writes next to the arrays for data without side tables.
NO_SIDES = {
    "dataset_hash": "synthetic", "split_id": "none", "numeric_ids": [], "repeats": "first", "encoders": {"traits": [], "context": []},
    "trait_sizes": [], "context_sizes": [],
}  # fmt: skip


@dataclass(frozen=True)
class Size:
    """Size of the service; `width` is that of user and item vectors."""

    users: int = 6000
    items: int = 4000
    events: int = 50  # per user
    width: int = 64


def features(size: Size, settings: params.Params, seed: int = 0) -> Features:
    """Features as of the end of the synthetic events; each user takes different items at random."""
    rng = np.random.default_rng(seed)
    taken = [1 + rng.choice(size.items, size.events, replace=False) for _ in range(size.users)]
    hours = np.sort(rng.integers(0, DAYS * 24, (size.users, size.events)), axis=1)
    traits = (1 + np.arange(size.users)[:, None] % len(PLANS)).astype(np.int64)
    trends = settings.featurize.trends
    channels = ["all", *(f"window_{days}d" for days in trends.windows_days)]
    return Features(
        vocabulary=Vocabulary([f"m{number:05d}" for number in range(size.items)]),
        log=_log(np.concatenate(taken), START + hours.ravel() * HOUR, traits),
        users=[f"u{number:06d}" for number in range(size.users)],
        titles=[f"Title of item {number}" for number in range(size.items)],
        item_features=rng.normal(size=(size.items + 1, CONTENT_WIDTH)).astype(np.float32),
        description=NO_SIDES | {
            "dataset": NAME, "cut": "test", "cut_us": START + DAYS * DAY, "until_us": START + DAYS * DAY,
            "horizon_days": settings.split.horizon_days, "num_items": size.items + 1, "trait_sizes": [len(PLANS) + 1],
            "encoders": {"traits": [{"column": "plan", "values": list(PLANS)}], "context": []},
            "channels": channels + [f"half_life_{days}d" for days in trends.half_lives_days],
            "refresh_minutes": trends.refresh_minutes,
        },
    )  # fmt: skip


def _log(items: np.ndarray, times: np.ndarray, traits: np.ndarray) -> InteractionLog:
    """The log of users who all have the same number of events."""
    offsets = np.arange(len(traits) + 1) * (len(items) // len(traits))
    return InteractionLog(offsets, items, times, times, np.zeros((len(items), 0), dtype=np.int64), traits)


def artifact(folder: Path, features: Features, size: Size, settings: params.Params, steps: int) -> Path:
    """Fit a two_tower for a few steps and export it as `serving.artifact.export_artifact` does; return its folder."""
    hyperparameters = settings.train.models["two_tower"].model_dump() | {"embedding_dim": size.width}
    hyperparameters |= {"best_steps": steps, "train_events": size.users * size.events}
    users = pd.DataFrame({USER: features.users, "plan": [PLANS[n % len(PLANS)] for n in range(size.users)]})
    items = pd.DataFrame(
        {ITEM: features.vocabulary.ids, "genres": [GENRES[n % len(GENRES)] for n in range(size.items)]}
    )
    fitted = fit(hyperparameters, features, settings.train, seed=0)
    return _export(folder, fitted.model.state_dict(), fitted, features, settings, SideTables(users, items))


def _export(
    folder: Path,
    state: dict[str, Tensor],
    fitted: FitResult,
    features: Features,
    settings: params.Params,
    sides: SideTables,
) -> Path:
    weights = folder / "weights.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, weights)
    about = {"hyperparameters": fitted.hyperparameters, "label": "two_tower", "run_id": "none"}
    export_artifact.export_artifact(folder / "artifact", weights, about, features, settings, sides)
    return folder / "artifact"


def profiles(features: Features) -> list[Profile]:
    """The users of the features as the online store holds them, with event ids of 32 digits as from ingest."""
    log, profiles_ = features.log, []
    for row, user in enumerate(features.users):
        times = log.times[log.offsets[row] : log.offsets[row + 1]].tolist()
        items = log.items[log.offsets[row] : log.offsets[row + 1]].tolist()
        history = [
            Event(at, f"{row:016x}{number:016x}", at, features.vocabulary.id(item), "play")
            for number, (at, item) in enumerate(zip(times, items, strict=True))
        ]
        plan = TimedValue(times[0], history[0].event_id, times[0], PLANS[row % len(PLANS)])
        profiles_.append(make_profile(user, history, {"plan": plan}))
    return profiles_


# A large catalog

CATALOG_GENRES, TOPICS, CATALOG_DAYS, PER_USER = 25, 500, 120, 24
CATALOG_START = 20_000 * DAY
CATALOG_CHANNELS = ["all", "window_1d", "half_life_1d", "half_life_7d", "half_life_30d"]
NEIGHBORS = 10
NOISE = 0.5  # of the distance to the neighbor, spread over all directions


def train(items: int, users: int, steps: int, width: int = 64) -> tuple[Features, FitResult]:
    """Fit a two_tower on `synthetic_log` with in-batch negatives, as for a catalog too large for a full softmax."""
    settings = params.load().train
    hyperparameters = settings.models["two_tower"].model_dump() | {
        "embedding_dim": width, "loss": "in_batch", "max_steps": steps, "max_epochs": 20, "max_history": 20,
    }  # fmt: skip
    features = Features(
        vocabulary=_names(items),
        log=synthetic_log(items, users),
        users=[f"u{number:06d}" for number in range(users)],
        titles=[None] * items,
        item_features=np.zeros((items + 1, 0), dtype=np.float32),
        description=NO_SIDES | {
            "dataset": "synthetic", "cut": "valid", "cut_us": CATALOG_START + (CATALOG_DAYS - 14) * DAY,
            "until_us": CATALOG_START + CATALOG_DAYS * DAY, "horizon_days": 14, "num_items": items + 1,
            "channels": CATALOG_CHANNELS, "refresh_minutes": 10,
        },
    )  # fmt: skip
    settings = settings.model_copy(update={"early_stopping_cases": 200, "validation_cases": 200})
    return features, fit(hyperparameters, features, settings, seed=0)


def _names(items: int) -> Vocabulary:
    return Vocabulary([f"i{number}" for number in range(items)])


def synthetic_log(items: int, users: int, seed: int = 0) -> InteractionLog:
    """Events of users who like a few topics of one genre; new items rise and fade within weeks."""
    rng = np.random.default_rng(seed)
    topic = rng.integers(0, TOPICS, items)
    quality = rng.zipf(1.6, items).clip(max=1000) ** 0.7
    release = rng.uniform(-300, CATALOG_DAYS, items)
    by_topic = [np.flatnonzero(topic == one) for one in range(TOPICS)]
    genre = rng.integers(0, CATALOG_GENRES, users)
    liked = (genre[:, None] + CATALOG_GENRES * rng.integers(0, TOPICS // CATALOG_GENRES, (users, 3))) % TOPICS
    chosen, times = [], []
    for user in range(users):
        days = np.sort(rng.uniform(0, CATALOG_DAYS, PER_USER))
        for day in days:
            topic_items = by_topic[liked[user, rng.integers(3)] if rng.random() < 0.85 else rng.integers(TOPICS)]
            age = day - release[topic_items]
            weight = quality[topic_items] * np.where(age > 0, 0.1 + np.exp(-np.abs(age) / 20), 1e-9)
            chosen.append(1 + topic_items[np.searchsorted(np.cumsum(weight), rng.random() * weight.sum())])
        times.append(CATALOG_START + (days * DAY).astype(np.int64))
    return _log(np.array(chosen, dtype=np.int64), np.concatenate(times), np.zeros((users, 0), dtype=np.int64))


def export_grown(folder: Path, features: Features, fitted: FitResult, items: int, settings: params.Params) -> dict:
    """Export the trained items, as far as they fit, and new items between them; return the artifact's manifest."""
    state, width = fitted.model.state_dict(), fitted.hyperparameters["embedding_dim"]
    counts = features.trend_log().at(np.array([features.cut_us]), CATALOG_CHANNELS)[0]
    logs = torch.log(torch.from_numpy(counts[1:]) + 0.5)
    trained = torch.cat([state["items.ids.weight"][1:], state["item_bias"][1:, None], logs], dim=1)
    rows = torch.cat([torch.zeros(1, trained.shape[1]), grown_rows(trained, width, items)])
    state = state | {
        "items.ids.weight": rows[:, :width],
        "item_bias": rows[:, width],
        "content": torch.zeros(len(rows), 0),
    }
    counts = (rows[:, width + 1 :].exp() - 0.5).clamp(min=0).numpy()
    counts[0] = 0
    sizes = {
        "vocabulary": _names(items), "titles": [None] * items, "item_features": np.zeros((items + 1, 0), np.float32),
        "description": features.description | {"num_items": items + 1},
    }  # fmt: skip
    grown = GrownFeatures(**vars(features) | sizes, counts=counts)
    sides = SideTables(pd.DataFrame({USER: grown.users}), pd.DataFrame({ITEM: grown.vocabulary.ids}))
    exported = _export(folder, state, fitted, grown, settings, sides)
    return json.loads((exported / MANIFEST).read_text(encoding="utf-8"))


def grown_rows(trained: Tensor, width: int, items: int, seed: int = 1) -> Tensor:
    """(items, D + 1 + C) vector, bias and log counts: the (M, D + 1 + C) trained ones, then new ones between them.

    A new item lies at a random place between a trained item and one of its ten nearest neighbors by angle, with bias and
    logarithms of trends in between too. Then it moves in a random direction by half the distance of the two. So the
    vectors keep their clusters, their spread and their few popular items.
    """
    rng = torch.Generator().manual_seed(seed)
    more = items - len(trained)
    if more <= 0:
        return trained[:items]
    unit = torch.nn.functional.normalize(trained[:, :width], dim=1)
    nearest = torch.cat([(part @ unit.T).topk(NEIGHBORS + 1, dim=1).indices[:, 1:] for part in unit.split(1024)])
    base = torch.randint(0, len(trained), (more,), generator=rng)
    other = nearest[base, torch.randint(0, NEIGHBORS, (more,), generator=rng)]
    way = trained[other] - trained[base]
    moved = trained[base] + torch.rand(more, 1, generator=rng) * way
    step = torch.randn(more, width, generator=rng) * way[:, :width].norm(dim=1, keepdim=True) / width**0.5
    moved[:, :width] += NOISE * step
    return torch.cat([trained, moved])


@dataclass
class GrownFeatures(Features):
    """Features with given item trends that are the same at every moment: most of these items have no events."""

    counts: np.ndarray  # (N, C)

    def trend_log(self) -> GrownFeatures:  # type: ignore[override]
        return self

    def at(self, moments: np.ndarray, channels: Sequence[str]) -> np.ndarray:
        """(T, N, C), as `features.trends.TrendLog.at`."""
        return np.repeat(self.counts[None], len(moments), axis=0)
