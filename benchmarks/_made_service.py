"""A model and its users' profiles of a stated size, from made-up events: a server takes as long whatever they mean.

Legend: U users, N item rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from safetensors.torch import save_file

import params
from data.columns import DAY, HOUR
from features.online.profile import Event, Profile, Stated, make
from features.sequences import Log
from features.store import Features
from features.vocabulary import Vocabulary
from serving import export
from serving.artifact.tables import Sides
from training.train import fit

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
    recipe |= {"width": size.width, "best_steps": steps, "train_events": size.users * size.events}
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
        "cut_us": START + DAYS * DAY, "until_us": START + DAYS * DAY, "window_days": settings.split.window_days,
        "num_items": size.items + 1, "context_sizes": [], "trait_sizes": [len(PLANS) + 1],
        "encoders": {"traits": [{"column": "plan", "values": list(PLANS)}], "context": []},
        "channels": channels + [f"half_life_{days}d" for days in trends.half_lives_days],
        "refresh_minutes": trends.refresh_minutes,
    }  # fmt: skip
