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
from features.trends import TrendSnapshot
from features.vocabulary import Vocabulary
from serving.artifact import export_artifact
from serving.artifact.export_artifact import SideTables
from training.fitting import fit
from training.models.artifact import MANIFEST, Artifact
from training.models.base import Sizes
from training.models.registry import build

CATALOG_GENRES, TOPICS, CATALOG_DAYS, PER_USER = 25, 500, 120, 24
CATALOG_START = 20_000 * DAY
NEIGHBORS = 10
NOISE = 0.5  # of the distance to the neighbor, spread over all directions


@dataclass
class TrainedModel:
    """A fitted two_tower with the features it was fitted on."""

    recipe: dict
    state: dict[str, Tensor]
    features: Features
    trends: np.ndarray  # (M, C) counts as of the cut


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
    at = np.concatenate(times)
    return InteractionLog(
        offsets=np.arange(users + 1) * PER_USER,
        items=np.array(chosen, dtype=np.int64),
        times=at,
        known=at,
        context=np.zeros((len(at), 0), dtype=np.int64),
        traits=np.zeros((users, 0), dtype=np.int64),
    )


def train(items: int, users: int, steps: int, width: int = 64) -> TrainedModel:
    """Fit a two_tower on `synthetic_log` with in-batch negatives, as for a catalog too large for a full softmax."""
    settings = params.load().train
    shipped = settings.models["two_tower"].model_dump()
    configuration = shipped | {
        "embedding_dim": width,
        "loss": "in_batch",
        "max_steps": steps,
        "max_epochs": 20,
        "max_history": 20,
    }
    channels = ["all", "window_1d", "half_life_1d", "half_life_7d", "half_life_30d"]
    features = Features(
        vocabulary=Vocabulary([f"i{number}" for number in range(items)]),
        log=synthetic_log(items, users),
        users=[f"u{number:06d}" for number in range(users)],
        titles=[None] * items,
        item_features=np.zeros((items + 1, 0), dtype=np.float32),
        description={
            "dataset": "synthetic", "dataset_hash": "synthetic", "split_id": "none", "cut": "valid", "repeats": "first",
            "cut_us": CATALOG_START + (CATALOG_DAYS - 14) * DAY, "until_us": CATALOG_START + CATALOG_DAYS * DAY, "horizon_days": 14,
            "num_items": items + 1, "encoders": {"traits": [], "context": []}, "trait_sizes": [],
            "context_sizes": [], "channels": channels, "refresh_minutes": 10,
        },
    )  # fmt: skip
    train_settings = settings.model_copy(update={"early_stopping_cases": 200, "validation_cases": 200})
    model = fit(configuration, features, train_settings, seed=0).model
    trends = features.trend_log().at(np.array([features.cut_us]), channels)[0]
    return TrainedModel(
        configuration, {name: one.detach().clone() for name, one in model.state_dict().items()}, features, trends
    )


def grow(trained: TrainedModel, items: int, seed: int = 1) -> Artifact:
    """An artifact with this many items: the trained ones as far as they fit, then new items between them.

    A new item lies at a random place between a trained item and one of its ten nearest neighbors by angle, with bias and
    logarithms of trends in between too. Then it moves in a random direction by half the distance of the two. So the
    vectors keep their clusters, their spread and their few popular items.
    """
    rng = torch.Generator().manual_seed(seed)
    joint, width = _joint(trained), trained.state["items.ids.weight"].shape[1]
    more = items - len(joint)
    if more > 0:
        base = torch.randint(0, len(joint), (more,), generator=rng)
        other = _nearest_items(joint[:, :width])[base, torch.randint(0, NEIGHBORS, (more,), generator=rng)]
        way = joint[other] - joint[base]
        moved = joint[base] + torch.rand(more, 1, generator=rng) * way
        step = torch.randn(more, width, generator=rng) * way[:, :width].norm(dim=1, keepdim=True) / width**0.5
        moved[:, :width] += NOISE * step
        joint = torch.cat([joint, moved])
    rows = torch.cat([torch.zeros(1, joint.shape[1]), joint[:items]])
    return _artifact(trained, rows, width)


def export_grown(folder: Path, trained: TrainedModel, items: int, settings: params.Params) -> dict:
    """Write the grown artifact as `serving.artifact.export_artifact` does, with its index; return its manifest."""
    grown = grow(trained, items)
    weights = folder / "weights.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in grown.model.state_dict().items()}, weights)
    features = GrownFeatures(
        **vars(trained.features)
        | {
            "vocabulary": grown.vocabulary,
            "titles": grown.titles,
            "item_features": np.zeros((items + 1, 0), dtype=np.float32),
            "description": trained.features.description | {"num_items": items + 1},
        },
        counts=grown.trends.values,
    )
    about = {"hyperparameters": trained.recipe, "label": "two_tower", "run_id": "none"}
    sides = SideTables(pd.DataFrame({USER: features.users}), pd.DataFrame({ITEM: features.vocabulary.ids}))
    export_artifact.export_artifact(folder / "artifact", weights, about, features, settings, sides)
    return json.loads((folder / "artifact" / MANIFEST).read_text())


@dataclass
class GrownFeatures(Features):
    """Features with given item trends that are the same at every moment: most of these items have no events."""

    counts: np.ndarray  # (N, C)

    def trend_log(self) -> GrownFeatures:  # type: ignore[override]
        return self

    def at(self, moments: np.ndarray, channels: Sequence[str]) -> np.ndarray:
        """(T, N, C), as `features.trends.TrendLog.at`."""
        return np.repeat(self.counts[None], len(moments), axis=0)


def _joint(trained: TrainedModel) -> Tensor:
    """(M, D + 1 + C) vector, bias and log counts of every trained item."""
    logs = torch.log(torch.from_numpy(trained.trends[1:]) + 0.5)
    return torch.cat([trained.state["items.ids.weight"][1:], trained.state["item_bias"][1:, None], logs], dim=1)


def _nearest_items(vectors: Tensor) -> Tensor:
    """(M, 10) the items at the smallest angles."""
    unit = torch.nn.functional.normalize(vectors, dim=1)
    parts = [(part @ unit.T).topk(NEIGHBORS + 1, dim=1).indices[:, 1:] for part in unit.split(1024)]
    return torch.cat(parts)


def _artifact(trained: TrainedModel, rows: Tensor, width: int) -> Artifact:
    about = trained.features.description
    sizes = Sizes(num_items=len(rows), content_width=0, channels=about["channels"])
    model = build(trained.recipe, sizes)
    state = trained.state | {
        "items.ids.weight": rows[:, :width].contiguous(),
        "item_bias": rows[:, width].contiguous(),
        "content": torch.zeros(len(rows), 0),
    }
    model.load_state_dict(state)
    counts = (rows[:, width + 1 :].exp() - 0.5).clamp(min=0).numpy()
    counts[0] = 0
    config = {"repeats": "first", "encoders": about["encoders"], "serve": {}}
    names = Vocabulary([f"i{number}" for number in range(len(rows) - 1)])
    snapshot = TrendSnapshot(counts, about["channels"], about["cut_us"])
    return Artifact(model.eval(), names, [None] * (len(rows) - 1), snapshot, config, {"dataset_hash": "synthetic"})


NAME = "bench"
START = 1_751_328_000_000_000  # 2025-07-01T00:00:00Z
DAYS = 120
CONTENT_WIDTH = 32
PLANS, GENRES = ("free", "trial", "paid"), ("Drama", "Comedy", "Horror", "Crime")


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
    times = START + hours.ravel() * HOUR
    log = InteractionLog(
        offsets=np.arange(size.users + 1) * size.events,
        items=np.concatenate(taken),
        times=times,
        known=times,
        context=np.zeros((len(times), 0), dtype=np.int64),
        traits=(1 + np.arange(size.users)[:, None] % len(PLANS)).astype(np.int64),
    )
    return Features(
        vocabulary=Vocabulary([f"m{number:05d}" for number in range(size.items)]),
        log=log,
        users=[f"u{number:06d}" for number in range(size.users)],
        titles=[f"Title of item {number}" for number in range(size.items)],
        item_features=rng.normal(size=(size.items + 1, CONTENT_WIDTH)).astype(np.float32),
        description=_description(size, settings),
    )


def artifact(folder: Path, features: Features, size: Size, settings: params.Params, steps: int) -> Path:
    """Fit a two_tower for a few steps and export it as `serving.artifact.export_artifact` does; return its folder."""
    configuration = settings.train.models["two_tower"].model_dump()
    configuration |= {"embedding_dim": size.width, "best_steps": steps, "train_events": size.users * size.events}
    fitted = fit(configuration, features, settings.train, seed=0)
    weights = folder / "weights.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in fitted.model.state_dict().items()}, weights)
    about = {"hyperparameters": fitted.hyperparameters, "label": "two_tower", "run_id": "none"}
    export_artifact.export_artifact(folder / "artifact", weights, about, features, settings, _sides(size))
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


def _sides(size: Size) -> SideTables:
    users = pd.DataFrame({"user_id": [f"u{n:06d}" for n in range(size.users)]})
    items = pd.DataFrame({"item_id": [f"m{n:05d}" for n in range(size.items)]})
    users["plan"] = [PLANS[n % len(PLANS)] for n in range(size.users)]
    items["genres"] = [GENRES[n % len(GENRES)] for n in range(size.items)]
    return SideTables(users, items)


def _description(size: Size, settings: params.Params) -> dict:
    """What featurize writes beside the arrays."""
    trends = settings.featurize.trends
    channels = ["all", *(f"window_{days}d" for days in trends.windows_days)]
    return {
        "dataset": NAME, "dataset_hash": "synthetic", "split_id": "none", "cut": "test", "repeats": "first",
        "cut_us": START + DAYS * DAY, "until_us": START + DAYS * DAY, "horizon_days": settings.split.horizon_days,
        "num_items": size.items + 1, "context_sizes": [], "trait_sizes": [len(PLANS) + 1],
        "encoders": {"traits": [{"column": "plan", "values": list(PLANS)}], "context": []},
        "channels": channels + [f"half_life_{days}d" for days in trends.half_lives_days],
        "refresh_minutes": trends.refresh_minutes,
    }  # fmt: skip
