"""The simulated items: what they are, what their text says, and what it is in them that people like.

G genres, H themes, N items, D latents.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from data import columns
from data.columns import DAY
from data.simulator import strengths, words
from data.simulator.clock import QUARTER, Clock, timestamps
from data.simulator.text import describe, name_items

LANGUAGES = ("en", "es", "fr", "de", "ja", "hi")
MATURITIES = ("all", "7", "12", "16", "18")
NONE = -1


@dataclass(frozen=True)
class Space:
    """Unit vectors of genres (G, D) and themes (H, D) in the taste space."""

    genres: np.ndarray
    themes: np.ndarray


@dataclass(frozen=True)
class Catalogue:
    """The items as a table and as the numbers that preference works on.

    Attributes:
        frame: N rows, sorted by item_id.
        latents: (N, D) unit vectors.
        quality: (N,) what everybody likes.
        release: (N,) int64 microseconds.
        sequel: (N,) index of the next part of the same franchise, or NONE.
    """

    frame: pd.DataFrame
    latents: np.ndarray
    quality: np.ndarray
    release: np.ndarray
    sequel: np.ndarray


def unit(vectors: np.ndarray) -> np.ndarray:
    """Rows scaled to length 1."""
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def make_space(rng: np.random.Generator) -> Space:
    """Themes lean towards one genre each, so that genres tell something of themes."""
    genres = unit(rng.standard_normal((len(words.GENRES), strengths.LATENTS)))
    home = genres[np.arange(len(words.THEMES)) % len(genres)]
    return Space(genres, unit(unit(rng.standard_normal((len(words.THEMES), strengths.LATENTS))) + 0.6 * home))


def make_catalogue(settings, clock: Clock, space: Space, rng: np.random.Generator) -> Catalogue:
    """`settings.items` items in random order: neither age nor franchise can be read off an item_id."""
    franchise, part = _franchises(settings.items, rng)
    genres, themes = _tags(franchise, space, rng)
    latents = _latents(genres, themes, franchise, space, rng)
    release = _release_times(franchise, part, clock, rng)
    frame = _describe(franchise, part, genres, themes, release, rng)
    quality = strengths.QUALITY * (
        0.8 * rng.standard_normal(franchise[-1] + 1)[franchise] + 0.6 * rng.standard_normal(len(frame))
    )
    order = rng.permutation(len(frame))
    frame = frame.iloc[order].reset_index(drop=True)
    frame.insert(0, columns.ITEM, [f"m{index:05d}" for index in range(len(frame))])
    sequel = _sequels(franchise, part)
    place = np.empty(len(frame) + 1, dtype=np.int64)  # old index -> new index; NONE stays NONE
    place[order], place[NONE] = np.arange(len(frame)), NONE
    return Catalogue(frame, latents[order], quality[order], release[order], place[sequel[order]])


def _franchises(num_items: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Franchise number and part (from 1) of each item; about a third of the items have siblings."""
    sizes = rng.choice([1, 2, 3, 4, 5, 6], size=num_items, p=[0.84, 0.05, 0.05, 0.03, 0.02, 0.01])
    franchise = np.repeat(np.arange(num_items), sizes)[:num_items]
    part = np.arange(num_items) - np.searchsorted(franchise, franchise) + 1
    return franchise, part


def _sequels(franchise: np.ndarray, part: np.ndarray) -> np.ndarray:
    sequel = np.full(len(franchise), NONE)
    follows = np.flatnonzero(part > 1)
    sequel[follows - 1] = follows
    return sequel


def _tags(franchise: np.ndarray, space: Space, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """(N, G) and (N, H) 0/1: one to three genres and two themes, shared by a franchise."""
    count = franchise[-1] + 1
    popular = np.linspace(1.2, -1.2, len(words.GENRES))[rng.permutation(len(words.GENRES))]
    genres = _top(
        popular + rng.gumbel(size=(count, len(words.GENRES))), rng.choice([1, 2, 3], count, p=[0.3, 0.5, 0.2])
    )
    match = (genres @ space.genres) @ space.themes.T
    themes = _top(2.5 * match + rng.gumbel(size=match.shape), np.full(count, 2))
    return genres[franchise], themes[franchise]


def _top(scores: np.ndarray, how_many: np.ndarray) -> np.ndarray:
    ranks = np.argsort(np.argsort(-scores, axis=1), axis=1)
    return (ranks < how_many[:, None]).astype(float)


def _latents(genres, themes, franchise, space: Space, rng: np.random.Generator) -> np.ndarray:
    """Mostly what the text tells, some that only behaviour shows (its own, and its franchise's)."""
    told = 0.9 * unit(genres @ space.genres) + 0.9 * unit(themes @ space.themes)
    shared = rng.standard_normal((franchise[-1] + 1, strengths.LATENTS))[franchise]
    own = rng.standard_normal((len(franchise), strengths.LATENTS))
    return unit(told + (0.6 * shared + 0.3 * own) / np.sqrt(strengths.LATENTS))


def _release_times(franchise, part, clock: Clock, rng: np.random.Generator) -> np.ndarray:
    """At the turn of a quarter day; the newest part like any item, earlier parts 200 to 700 days apart."""
    days = (clock.end - clock.start) / DAY
    share_new = min(0.4, strengths.NEW_SHARE * days / 180)
    newest_part = np.append(part[1:] == 1, True)
    age = rng.exponential(9 * 365.0, len(part)).clip(max=60 * 365) + 1
    moment = np.where(rng.random(len(part)) < share_new, rng.random(len(part)) * days, -age)
    gaps = np.where(newest_part, 0.0, rng.uniform(200, 700, len(part)))
    back = np.cumsum(gaps[::-1])[::-1]  # days from each item to the end of the list, gaps of its own franchise included
    last = np.searchsorted(franchise, franchise, side="right") - 1
    moment = moment[last] - (back - back[last])
    return clock.origin + np.floor(moment * DAY / QUARTER).astype(np.int64) * QUARTER


def _describe(franchise, part, genres, themes, release, rng: np.random.Generator) -> pd.DataFrame:
    count = franchise[-1] + 1
    series = (rng.random(count) < 0.35)[franchise]
    duration = np.where(series, rng.normal(42, 10, len(part)), rng.normal(108, 18, len(part))).clip(18, 210)
    language = rng.choice(LANGUAGES, count, p=[0.52, 0.14, 0.11, 0.09, 0.08, 0.06])[franchise]
    maturity = rng.choice(MATURITIES, count, p=[0.15, 0.15, 0.3, 0.28, 0.12])[franchise]
    return pd.DataFrame(
        {
            columns.TITLE: name_items(franchise, part, series, rng),
            columns.GENRES: ["|".join(np.take(words.GENRES, np.flatnonzero(row))) for row in genres],
            columns.DESCRIPTION: describe(genres, themes, series, rng),
            columns.RELEASE_TIME: timestamps(release),
            "kind": np.where(series, "series", "film").astype(object),
            "duration_minutes": duration.round().astype(np.int64),
            "year": timestamps(release).year.astype(np.int64),
            "maturity": maturity.astype(object),
            "language": language.astype(object),
        }
    )
