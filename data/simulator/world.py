"""The simulated world: its clock, how strong each force of preference is, and its items with their text.

The strengths are in units of log preference. They are constants, not parameters: they were tuned together so that the
default world is as hard as real logs (popularity far below personal models, and those far below the oracle).
Legend: G genres, H themes, N items, D latents.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import yaml

from config.params import Simulate
from data import columns
from data.columns import DAY, HOUR, MICROSECONDS
from data.tables import timestamps
from data.times import from_datetime

QUARTER = 6 * HOUR  # night, morning, afternoon, evening: preferences are constant within a quarter of a day
DAYPARTS = 4
MONDAY = 4  # 1970-01-01 was a Thursday: day 4 was the first Monday

LATENTS = 24  # width of the taste space
TASTE = 8.0  # weight of the match between a user's taste and an item
DEMOGRAPHY = 0.45  # share of a taste vector that age, gender, country and plan explain
DRIFT = 1.0  # radians by which the fastest taste turns during the whole period
QUALITY = 1.5  # standard deviation of an item's general appeal
MAINSTREAM = 0.35  # how much users differ in following the crowd, relative to the average
HEAT_SENSITIVITY = 0.45  # how much users differ in following new and trending items, log standard deviation
DAYPART = 1.0  # weight of preferences by time of day and weekend
DEVICE = 0.8  # weight of preferences by device
SHORT_ON_PHONE = 0.5  # phones and tablets favor short items, televisions long ones
LANGUAGE = 1.0  # weight of the language of the user's country
MATURITY = 0.35  # older users lean to more mature items

MOOD = 1.6  # weight of the latest plays
MOOD_MEMORY = 0.6  # share of a play's weight in the mood that remains after each further play
SEQUEL_WITHOUT_START = 1.5  # cost of a part whose previous part the user has not seen
SEQUEL_NEXT = (4.2, 3.0, 2.3, 1.7, 1.3, 1.0, 0.7, 0.5)  # bonus of the next part, by plays since the previous one

NEW_SHARE = 0.12  # items released within 180 days of the period
NEW_BOOST = 1.5  # mean bonus of an item on its release day
NEW_DAYS = 10.0  # days after which the bonus is down to 1/e
AGE_COST = 0.4  # cost of each e-fold of age
AGE_DAYS = 120.0  # age at which that cost begins
SWING = 0.8  # how far an item's appeal rises and falls over the months
SWING_DAYS = (60.0, 240.0)  # length of one such wave
BURSTS = 1.5  # items that start to trend per day and 2,000 items
BURST_BOOST = 2.1  # mean bonus at the start of a burst
BURST_DAYS = (2.0, 7.0)  # days after which a burst is down to 1/e

LATE_SHARE = 0.03  # share of plays on phone and tablet that the platform learns of late

WORDS = yaml.safe_load(Path(__file__).with_name("words.yaml").read_text(encoding="utf-8"))
GENRES, THEMES = WORDS["genres"], list(WORDS["themes"].items())
MANY_TITLES = 20_000  # from here on titles have a number: the words make some hundred thousand different ones
LANGUAGES = ("en", "es", "fr", "de", "ja", "hi")
MATURITIES = ("all", "7", "12", "16", "18")
NO_SEQUEL = -1


@dataclass(frozen=True)
class Clock:
    """First and last moment of the period, microseconds since 1970. Quarters count from `origin`, the first midnight."""

    start: int
    end: int

    @classmethod
    def from_settings(cls, settings: Simulate) -> Clock:
        """A start without a time zone is UTC."""
        start = from_datetime(settings.start) // MICROSECONDS * MICROSECONDS
        return cls(start, start + settings.days * DAY)

    @property
    def origin(self) -> int:
        return self.start - self.start % DAY

    @property
    def quarters(self) -> int:
        return -(-(self.end - self.origin) // QUARTER)

    def quarter(self, times: np.ndarray) -> np.ndarray:
        """Index of the quarter day; times outside the period fall in its first or last."""
        return np.clip((times - self.origin) // QUARTER, 0, self.quarters - 1)

    def progress(self, times: np.ndarray) -> np.ndarray:
        """0 at the start of the period, 1 at its end."""
        return np.clip((times - self.start) / (self.end - self.start), 0.0, 1.0)


def daypart(times: np.ndarray) -> np.ndarray:
    """0 night, 1 morning, 2 afternoon, 3 evening (UTC)."""
    return times % DAY // QUARTER


def is_weekend(times: np.ndarray) -> np.ndarray:
    """1 on Saturday and Sunday, otherwise 0."""
    return ((times // DAY - MONDAY) % 7 >= 5).astype(np.int64)


@dataclass(frozen=True)
class TasteSpace:
    """Unit vectors of genres (G, D) and themes (H, D) in the taste space."""

    genres: np.ndarray
    themes: np.ndarray


@dataclass(frozen=True)
class SimulatedCatalog:
    """The items as a table, and as the numbers that preferences use.

    Attributes:
        frame: N rows, sorted by item_id.
        latents: (N, D) unit vectors.
        quality: (N,) general appeal.
        release: (N,) int64 microseconds.
        sequel: (N,) index of the next part of the same franchise, or NO_SEQUEL.
    """

    frame: pd.DataFrame
    latents: np.ndarray
    quality: np.ndarray
    release: np.ndarray
    sequel: np.ndarray


def normalize(vectors: np.ndarray) -> np.ndarray:
    """Scale rows to length 1."""
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def make_space(rng: np.random.Generator) -> TasteSpace:
    """Draw the taste space. Each theme leans toward one genre, so that genres say something about themes."""
    genres = normalize(rng.standard_normal((len(GENRES), LATENTS)))
    home = genres[np.arange(len(THEMES)) % len(genres)]
    return TasteSpace(genres, normalize(normalize(rng.standard_normal((len(THEMES), LATENTS))) + 0.6 * home))


def make_catalog(settings: Simulate, clock: Clock, space: TasteSpace, rng: np.random.Generator) -> SimulatedCatalog:
    """Draw `settings.items` items in random order, so that an item_id reveals neither age nor franchise."""
    franchise, part = _franchises(settings.items, rng)
    genres, themes = _tags(franchise, space, rng)
    latents = _latents(genres, themes, franchise, space, rng)
    release = _release_times(franchise, part, clock, rng)
    frame = _describe(franchise, part, genres, themes, release, rng)
    quality = QUALITY * (
        0.8 * rng.standard_normal(franchise[-1] + 1)[franchise] + 0.6 * rng.standard_normal(len(frame))
    )
    order = rng.permutation(len(frame))
    frame = frame.iloc[order].reset_index(drop=True)
    frame.insert(0, columns.ITEM, [f"m{index:05d}" for index in range(len(frame))])
    follows = np.flatnonzero(part > 1)
    sequel = np.full(len(frame), NO_SEQUEL)
    sequel[follows - 1] = follows
    place = np.empty(len(frame) + 1, dtype=np.int64)  # old index -> new index; NO_SEQUEL stays
    place[order], place[NO_SEQUEL] = np.arange(len(frame)), NO_SEQUEL
    return SimulatedCatalog(frame, latents[order], quality[order], release[order], place[sequel[order]])


def _franchises(num_items: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Franchise number and part (from 1) of each item; about a third of the items have siblings."""
    sizes = rng.choice([1, 2, 3, 4, 5, 6], size=num_items, p=[0.84, 0.05, 0.05, 0.03, 0.02, 0.01])
    franchise = np.repeat(np.arange(num_items), sizes)[:num_items]
    part = np.arange(num_items) - np.searchsorted(franchise, franchise) + 1
    return franchise, part


def _tags(franchise: np.ndarray, space: TasteSpace, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """(N, G) and (N, H) 0/1: one to three genres and two themes, shared by a franchise."""
    count = franchise[-1] + 1
    popular = np.linspace(1.2, -1.2, len(GENRES))[rng.permutation(len(GENRES))]
    genres = _top(popular + rng.gumbel(size=(count, len(GENRES))), rng.choice([1, 2, 3], count, p=[0.3, 0.5, 0.2]))
    match = (genres @ space.genres) @ space.themes.T
    themes = _top(2.5 * match + rng.gumbel(size=match.shape), np.full(count, 2))
    return genres[franchise], themes[franchise]


def _top(scores: np.ndarray, count_N: np.ndarray) -> np.ndarray:
    ranks = np.argsort(np.argsort(-scores, axis=1), axis=1)
    return (ranks < count_N[:, None]).astype(float)


def _latents(genres, themes, franchise, space: TasteSpace, rng: np.random.Generator) -> np.ndarray:
    """(N, D) mostly what the text says, with a part of the item and its franchise that only behavior shows."""
    from_text = 0.9 * normalize(genres @ space.genres) + 0.9 * normalize(themes @ space.themes)
    shared = rng.standard_normal((franchise[-1] + 1, LATENTS))[franchise]
    own = rng.standard_normal((len(franchise), LATENTS))
    return normalize(from_text + (0.6 * shared + 0.3 * own) / np.sqrt(LATENTS))


def _release_times(franchise, part, clock: Clock, rng: np.random.Generator) -> np.ndarray:
    """Release times, at quarters of a day. The newest part as any item, earlier parts 200 to 700 days apart."""
    days = (clock.end - clock.start) / DAY
    share_new = min(0.4, NEW_SHARE * days / 180)
    newest_part = np.append(part[1:] == 1, True)
    age = rng.exponential(9 * 365.0, len(part)).clip(max=60 * 365) + 1
    moment = np.where(rng.random(len(part)) < share_new, rng.random(len(part)) * days, -age)
    gaps = np.where(newest_part, 0.0, rng.uniform(200, 700, len(part)))
    back = np.cumsum(gaps[::-1])[::-1]  # days from each item to the end of the list
    last = np.searchsorted(franchise, franchise, side="right") - 1
    moment = moment[last] - (back - back[last])
    return clock.origin + np.floor(moment * DAY / QUARTER).astype(np.int64) * QUARTER


def _describe(franchise, part, genres, themes, release, rng: np.random.Generator) -> pd.DataFrame:
    count = franchise[-1] + 1
    series = (rng.random(count) < 0.35)[franchise]
    duration = np.where(series, rng.normal(42, 10, len(part)), rng.normal(108, 18, len(part))).clip(18, 210)
    language = rng.choice(LANGUAGES, count, p=[0.52, 0.14, 0.11, 0.09, 0.08, 0.06])[franchise]
    maturity = rng.choice(MATURITIES, count, p=[0.15, 0.15, 0.3, 0.28, 0.12])[franchise]
    titles = np.array(_draw_titles(count, rng), dtype=object)[franchise]
    suffix = np.where(series, ": Season ", " ").astype(object) + part.astype(str).astype(object)
    return pd.DataFrame(
        {
            columns.TITLE: titles + np.where(part == 1, "", suffix),
            columns.GENRES: ["|".join(np.take(GENRES, np.flatnonzero(row))) for row in genres],
            columns.DESCRIPTION: _write_descriptions(genres, themes, series, rng),
            columns.RELEASE_TIME: timestamps(release),
            "kind": np.where(series, "series", "film").astype(object),
            "duration_minutes": duration.round().astype(np.int64),
            "year": timestamps(release).year.astype(np.int64),
            "maturity": maturity.astype(object),
            "language": language.astype(object),
        }
    )


def _draw_titles(count: int, rng: np.random.Generator) -> list[str]:
    """Distinct titles of franchises."""
    patterns, adjectives, nouns = WORDS["titles"], WORDS["adjectives"], WORDS["nouns"]
    titles: dict[str, None] = {}
    while len(titles) < count:
        pattern = patterns[rng.integers(len(patterns))]
        first, second = rng.choice(len(nouns), 2, replace=False)
        title = pattern.format(a=adjectives[rng.integers(len(adjectives))], n=nouns[first], m=nouns[second])
        titles[title if len(titles) < MANY_TITLES else f"{title} No. {len(titles)}"] = None
    return list(titles)


def _write_descriptions(genres, themes, series, rng: np.random.Generator) -> list[str]:
    """Two sentences per item that name its genres (N, G) and themes (N, H). Tone and place carry no signal."""
    tones = rng.choice(WORDS["tones"], len(genres))
    places = rng.choice(WORDS["places"], len(genres))
    texts = []
    for has_genres, has_themes, is_series, tone, place in zip(genres, themes, series, tones, places, strict=True):
        names = " and ".join(GENRES[index] for index in np.flatnonzero(has_genres)).lower()
        subjects, details = zip(*(THEMES[index] for index in np.flatnonzero(has_themes)), strict=True)
        article, kind = "An" if tone[0] in "aeiou" else "A", "series" if is_series else "film"
        about, more = " and ".join(subjects), ", and ".join(details)
        texts.append(f"{article} {tone} {names} {kind} about {about}. In {place}, {more}.")
    return texts
