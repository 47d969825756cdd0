"""A large catalogue whose vectors come from a trained model: a two_tower fitted on made-up tastes, then extrapolated.

Legend: N item rows (PAD's included), M of them trained, D width, C trend channels, U users.
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
from features.online.profile import Event, Profile, Stated, make
from features.sequences import Log
from features.trends import TrendSnapshot
from features.vocabulary import Vocabulary
from serving import export
from serving import export as serving_export
from serving.artifact.item_tables import Sides
from training.models.artifact import MANIFEST, Artifact
from training.models.base import Sizes
from training.models.registry import build
from training.train import fit

CATALOG_GENRES, TOPICS, CATALOG_DAYS, PER_USER = 25, 500, 120, 24
CATALOG_START = 20_000 * DAY
NEIGHBOURS = 10
NOISE = 0.5  # of the way to the neighbour, spread over all directions


@dataclass
class Trained:
    """A fitted two_tower with the features that it was fitted on."""

    recipe: dict
    state: dict[str, Tensor]
    features: Features
    trends: np.ndarray  # (M, C) counts as of the cut


def tastes(items: int, users: int, seed: int = 0) -> Log:
    """Events of users who like a few topics, of genres that they like; new items rise and fade within weeks."""
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
            of_topic = by_topic[liked[user, rng.integers(3)] if rng.random() < 0.85 else rng.integers(TOPICS)]
            age = day - release[of_topic]
            worth = quality[of_topic] * np.where(age > 0, 0.1 + np.exp(-np.abs(age) / 20), 1e-9)
            chosen.append(1 + of_topic[np.searchsorted(np.cumsum(worth), rng.random() * worth.sum())])
        times.append(CATALOG_START + (days * DAY).astype(np.int64))
    at = np.concatenate(times)
    return Log(
        offsets=np.arange(users + 1) * PER_USER,
        items=np.array(chosen, dtype=np.int64),
        times=at,
        known=at,
        context=np.zeros((len(at), 0), dtype=np.int64),
        traits=np.zeros((users, 0), dtype=np.int64),
    )


def train(items: int, users: int, steps: int, width: int = 64) -> Trained:
    """Fit a two_tower on `tastes`; the loss is over the batch's items, as for a catalogue too large for a softmax."""
    settings = params.load().train
    shipped = settings.models["two_tower"].model_dump()
    recipe = shipped | {
        "embedding_dim": width,
        "loss": "in_batch",
        "max_steps": steps,
        "max_epochs": 20,
        "max_history": 20,
    }
    channels = ["all", "window_1d", "half_life_1d", "half_life_7d", "half_life_30d"]
    features = Features(
        vocabulary=Vocabulary([f"i{number}" for number in range(items)]),
        log=tastes(items, users),
        users=[f"u{number:06d}" for number in range(users)],
        titles=[None] * items,
        item_features=np.zeros((items + 1, 0), dtype=np.float32),
        description={
            "dataset": "made", "dataset_hash": "made", "split_id": "made", "cut": "valid", "repeats": "first",
            "cut_us": CATALOG_START + (CATALOG_DAYS - 14) * DAY, "until_us": CATALOG_START + CATALOG_DAYS * DAY, "horizon_days": 14,
            "num_items": items + 1, "encoders": {"traits": [], "context": []}, "trait_sizes": [],
            "context_sizes": [], "channels": channels, "refresh_minutes": 10,
        },
    )  # fmt: skip
    small = settings.model_copy(update={"early_stopping_cases": 200, "validation_cases": 200})
    model = fit(recipe, features, small, seed=0).model
    trends = features.trend_log().at(np.array([features.cut_us]), channels)[0]
    return Trained(recipe, {name: one.detach().clone() for name, one in model.state_dict().items()}, features, trends)


def grown(trained: Trained, items: int, seed: int = 1) -> Artifact:
    """An artifact of so many items: of the trained ones as many as fit, then others between them.

    Each other item lies at a random place between a trained item and one of its ten nearest neighbours (by the angle
    of the trained vectors), its bias and the logarithms of its trends too, and then is moved in a random direction by
    half the distance of these two. So the cloud keeps its clusters, its spread and its few popular items, and fills.
    """
    rng = torch.Generator().manual_seed(seed)
    joint, width = _joint(trained), trained.state["items.ids.weight"].shape[1]
    more = items - len(joint)
    if more > 0:
        base = torch.randint(0, len(joint), (more,), generator=rng)
        other = _neighbours(joint[:, :width])[base, torch.randint(0, NEIGHBOURS, (more,), generator=rng)]
        way = joint[other] - joint[base]
        moved = joint[base] + torch.rand(more, 1, generator=rng) * way
        step = torch.randn(more, width, generator=rng) * way[:, :width].norm(dim=1, keepdim=True) / width**0.5
        moved[:, :width] += NOISE * step
        joint = torch.cat([joint, moved])
    rows = torch.cat([torch.zeros(1, joint.shape[1]), joint[:items]])
    return _artifact(trained, rows, width)


def export_grown(folder: Path, trained: Trained, items: int, settings: params.Params) -> dict:
    """Write the grown artifact as `serving.export` does, its index included; its manifest."""
    made = grown(trained, items)
    weights = folder / "weights.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in made.model.state_dict().items()}, weights)
    features = Grown(
        **vars(trained.features)
        | {
            "vocabulary": made.vocabulary,
            "titles": made.titles,
            "item_features": np.zeros((items + 1, 0), dtype=np.float32),
            "description": trained.features.description | {"num_items": items + 1},
        },
        counts=made.trends.values,
    )
    about = {"recipe": trained.recipe, "label": "two_tower", "run_id": "none"}
    sides = Sides(pd.DataFrame({USER: features.users}), pd.DataFrame({ITEM: features.vocabulary.ids}))
    serving_export.write(folder / "artifact", weights, about, features, settings, sides)
    return json.loads((folder / "artifact" / MANIFEST).read_text())


@dataclass
class Grown(Features):
    """Features whose item trends are stated, the same at every moment: nobody took most of these items."""

    counts: np.ndarray  # (N, C)

    def trend_log(self) -> Grown:  # type: ignore[override]
        return self

    def at(self, moments: np.ndarray, channels: Sequence[str]) -> np.ndarray:
        """(T, N, C), as `features.trends.TrendLog.at`."""
        return np.repeat(self.counts[None], len(moments), axis=0)


def _joint(trained: Trained) -> Tensor:
    """(M, D + 1 + C) vector, bias and log counts of every trained item."""
    logs = torch.log(torch.from_numpy(trained.trends[1:]) + 0.5)
    return torch.cat([trained.state["items.ids.weight"][1:], trained.state["item_bias"][1:, None], logs], dim=1)


def _neighbours(vectors: Tensor) -> Tensor:
    """(M, 10) the items at the smallest angles."""
    unit = torch.nn.functional.normalize(vectors, dim=1)
    parts = [(part @ unit.T).topk(NEIGHBOURS + 1, dim=1).indices[:, 1:] for part in unit.split(1024)]
    return torch.cat(parts)


def _artifact(trained: Trained, rows: Tensor, width: int) -> Artifact:
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
    return Artifact(model.eval(), names, [None] * (len(rows) - 1), snapshot, config, {"dataset_hash": "made"})


NAME = "bench"
START = 1_751_328_000_000_000  # 2025-07-01T00:00:00Z
DAYS = 120
CONTENT_WIDTH = 32
PLANS, GENRES = ("free", "trial", "paid"), ("Drama", "Comedy", "Horror", "Crime")


@dataclass(frozen=True)
class Size:
    """How much there is of everything; `width` is that of the user and item vectors."""

    users: int = 6000
    items: int = 4000
    events: int = 50  # of each user
    width: int = 64


def features(size: Size, settings: params.Params, seed: int = 0) -> Features:
    """Features as of the end of the made-up events; each user takes different items at random."""
    rng = np.random.default_rng(seed)
    taken = [1 + rng.choice(size.items, size.events, replace=False) for _ in range(size.users)]
    hours = np.sort(rng.integers(0, DAYS * 24, (size.users, size.events)), axis=1)
    times = START + hours.ravel() * HOUR
    log = Log(
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


def artifact(folder: Path, made: Features, size: Size, settings: params.Params, steps: int) -> Path:
    """Fit a two_tower for a few steps and export it as `serving.export` does; its folder."""
    recipe = settings.train.models["two_tower"].model_dump()
    recipe |= {"embedding_dim": size.width, "best_steps": steps, "train_events": size.users * size.events}
    fitted = fit(recipe, made, settings.train, seed=0)
    weights = folder / "weights.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in fitted.model.state_dict().items()}, weights)
    about = {"recipe": fitted.recipe, "label": "two_tower", "run_id": "none"}
    export.write(folder / "artifact", weights, about, made, settings, _sides(size))
    return folder / "artifact"


def profiles(made: Features) -> list[Profile]:
    """The users of the features as the online store holds them; ids of 32 digits, as ingest makes them."""
    log, found = made.log, []
    for row, user in enumerate(made.users):
        times = log.times[log.offsets[row] : log.offsets[row + 1]].tolist()
        items = log.items[log.offsets[row] : log.offsets[row + 1]].tolist()
        history = [
            Event(at, f"{row:016x}{number:016x}", at, made.vocabulary.id(item), "play")
            for number, (at, item) in enumerate(zip(times, items, strict=True))
        ]
        plan = Stated(times[0], history[0].event_id, times[0], PLANS[row % len(PLANS)])
        found.append(make(user, history, {"plan": plan}))
    return found


def _sides(size: Size) -> Sides:
    users = pd.DataFrame({"user_id": [f"u{n:06d}" for n in range(size.users)]})
    items = pd.DataFrame({"item_id": [f"m{n:05d}" for n in range(size.items)]})
    users["plan"] = [PLANS[n % len(PLANS)] for n in range(size.users)]
    items["genres"] = [GENRES[n % len(GENRES)] for n in range(size.items)]
    return Sides(users, items)


def _description(size: Size, settings: params.Params) -> dict:
    """What featurize says beside the arrays."""
    trends = settings.featurize.trends
    channels = ["all", *(f"window_{days}d" for days in trends.windows_days)]
    return {
        "dataset": NAME, "dataset_hash": "made up", "split_id": "none", "cut": "test", "repeats": "first",
        "cut_us": START + DAYS * DAY, "until_us": START + DAYS * DAY, "horizon_days": settings.split.horizon_days,
        "num_items": size.items + 1, "context_sizes": [], "trait_sizes": [len(PLANS) + 1],
        "encoders": {"traits": [{"column": "plan", "values": list(PLANS)}], "context": []},
        "channels": channels + [f"half_life_{days}d" for days in trends.half_lives_days],
        "refresh_minutes": trends.refresh_minutes,
    }  # fmt: skip
