"""The simulated items: their attributes, their text, and the latent vectors that users' tastes match.

Legend: G genres, H themes, N items, D latents.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from data import columns
from data.columns import DAY
from data.simulator import world
from data.simulator.world import QUARTER, Clock
from data.time_columns import timestamps

GENRES = (
    "Action", "Adventure", "Animation", "Comedy", "Crime", "Documentary", "Drama", "Family", "Fantasy",
    "History", "Horror", "Music", "Mystery", "Romance", "Science Fiction", "Sport", "Thriller", "War",
)  # fmt: skip

# theme -> (its subject in the first sentence, its detail in the second)
THEMES = {
    "heist": ("one last heist", "the vault has never been opened"),
    "space": ("a lost starship", "the stars keep their distance"),
    "revenge": ("a patient revenge", "every debt is paid in full"),
    "wedding": ("a wedding gone wrong", "the bride has second thoughts"),
    "courtroom": ("a trial that divides a city", "the jury cannot agree"),
    "robots": ("machines that dream", "a robot learns to lie"),
    "dragons": ("the last dragons", "fire returns to the mountain"),
    "kitchen": ("a small kitchen with great plans", "the chef tastes everything"),
    "spies": ("a spy without a country", "the code changes at midnight"),
    "ghosts": ("a house full of ghosts", "the dead have opinions"),
    "school": ("the worst class of the school", "the exam is tomorrow"),
    "football": ("a football team of underdogs", "the final goes to extra time"),
    "trenches": ("two soldiers in the trenches", "the whistle blows at dawn"),
    "jazz": ("a jazz band on the road", "the trumpet comes in late"),
    "ocean": ("a crossing of the ocean", "the whales sing below"),
    "desert": ("a caravan in the desert", "the well is dry"),
    "detective": ("a detective who cannot sleep", "the butler has an alibi"),
    "vampires": ("a family of vampires", "the sun is never kind"),
    "royalty": ("a queen and her rivals", "the crown weighs more each year"),
    "startup": ("a company in a garage", "the investors want it by Monday"),
    "farm": ("a farm at the edge of ruin", "the harvest is late"),
    "twins": ("twins parted at birth", "one of them knows"),
    "circus": ("a circus in winter", "the tightrope frays"),
    "pirates": ("pirates and their map", "the island moves"),
    "time travel": ("a clock that runs backwards", "yesterday is not safe either"),
    "zombies": ("a town after the outbreak", "the doors will not hold"),
    "hospital": ("a night shift at the hospital", "the surgeon trembles"),
    "election": ("an election in a small town", "both candidates are bluffing"),
    "mountains": ("a climb beyond reason", "the rope holds two"),
    "cats": ("a cat with nine plans", "nobody feeds it on time"),
    "chess": ("a chess prodigy", "the queen is sacrificed"),
    "trains": ("strangers on a night train", "one berth is empty"),
    "archaeology": ("a tomb that was sealed for good", "the map is in a dead language"),
    "dance": ("a dance school in the suburbs", "the music stops too soon"),
    "hackers": ("hackers against a bank", "the password was a birthday"),
    "island": ("castaways on an island", "the signal comes from inland"),
    "western": ("a sheriff without a horse", "the saloon closes early"),
    "samurai": ("a samurai out of service", "the sword is borrowed"),
    "motherhood": ("a mother and her grown children", "dinner is always at eight"),
    "prison": ("an escape from prison", "the guard counts twice"),
    "climate": ("the year the rivers rose", "the dam was built for another century"),
    "wolves": ("a pack of wolves and its valley", "winter decides"),
    "boxing": ("a boxer past her prime", "the bell saves no one"),
    "painter": ("a painter who forges", "the signature is perfect"),
    "witches": ("three witches and a village", "the spell asks for a price"),
    "road trip": ("a road trip without a map", "the car gives up first"),
    "exile": ("an exile who comes home", "the letters were never sent"),
    "radio": ("a radio station at night", "a caller knows too much"),
}

TONES = (
    "quiet", "tense", "warm", "dark", "restless", "playful", "bitter", "tender", "wild", "sly", "stark",
    "bright",
)  # fmt: skip
PLACES = (
    "Lisbon", "a northern harbour", "Nairobi", "the high plains", "Osaka", "a border town", "Montreal",
    "the old city", "a village without a road", "Buenos Aires", "the suburbs", "Kraków", "an island chain",
    "Mumbai", "the far south",
)  # fmt: skip
ADJECTIVES = (
    "Silent", "Golden", "Broken", "Distant", "Hidden", "Crooked", "Burning", "Frozen", "Gentle", "Hollow",
    "Last", "Lonely", "Lucky", "Midnight", "Paper", "Perfect", "Quiet", "Restless", "Savage", "Scarlet",
    "Second", "Secret", "Silver", "Slow", "Sunken", "Tender", "Velvet", "Wandering", "Wicked", "Winter",
)  # fmt: skip
NOUNS = (
    "Harbour", "Garden", "Mirror", "River", "Letter", "Kingdom", "Shadow", "Orchard", "Signal", "Promise",
    "Machine", "Stranger", "Bridge", "Lantern", "Empire", "Summer", "Border", "Carnival", "Compass", "Crown",
    "Echo", "Engine", "Falcon", "Horizon", "Island", "Journey", "Key", "Labyrinth", "Market", "Moon", "Night",
    "Ocean", "Parade", "Passenger", "Pilot", "Rain", "Road", "Sister", "Storm", "Tower", "Valley", "Voyage",
    "Wolf", "Window",
)  # fmt: skip
PATTERNS = (
    "The {a} {n}", "{a} {n}", "A {a} {n}", "{n} of the {a} {m}", "The {n} and the {m}", "{a} {n}, {m}",
)  # fmt: skip


def name_items(franchise: np.ndarray, part: np.ndarray, series: np.ndarray, rng: np.random.Generator) -> list[str]:
    """Unique titles. Later parts of a franchise have its title and a number."""
    taken: set[str] = set()
    names = [_fresh_title(taken, rng) for _ in range(franchise[-1] + 1)]
    return [
        _with_part(names[number], which, is_series)
        for number, which, is_series in zip(franchise, part, series, strict=True)
    ]


def _with_part(name: str, part: int, is_series: bool) -> str:
    if part == 1:
        return name
    return f"{name}: Season {part}" if is_series else f"{name} {part}"


def _fresh_title(taken: set[str], rng: np.random.Generator) -> str:
    """Draw an unused title. The word lists give some hundred thousand; if they run low, a number is added."""
    for attempt in range(1000):
        pattern = PATTERNS[rng.integers(len(PATTERNS))]
        first, second = rng.choice(len(NOUNS), 2, replace=False)
        adjective = ADJECTIVES[rng.integers(len(ADJECTIVES))]
        title = pattern.format(a=adjective, n=NOUNS[first], m=NOUNS[second])
        if attempt >= 20:
            title += f" No. {rng.integers(2, 10 ** (1 + attempt // 20))}"
        if title not in taken:
            taken.add(title)
            return title
    raise AssertionError("no unused title in 1,000 attempts")


def describe(genres: np.ndarray, themes: np.ndarray, series: np.ndarray, rng: np.random.Generator) -> list[str]:
    """Two sentences per item that name its genres (N, G) and themes (N, H). Tone and place carry no signal."""
    phrases = list(THEMES.values())
    tones = rng.choice(TONES, len(genres))
    places = rng.choice(PLACES, len(genres))
    return [
        _two_sentences(
            [GENRES[index] for index in np.flatnonzero(has_genres)],
            [phrases[index] for index in np.flatnonzero(has_themes)],
            "series" if is_series else "film",
            tone,
            place,
        )
        for has_genres, has_themes, is_series, tone, place in zip(genres, themes, series, tones, places, strict=True)
    ]


def _two_sentences(genres: list[str], themes: list[tuple[str, str]], kind: str, tone: str, place: str) -> str:
    article = "An" if tone[0] in "aeiou" else "A"
    about = " and ".join(subject for subject, _ in themes)
    more = ", and ".join(detail for _, detail in themes)
    return f"{article} {tone} {' and '.join(genres).lower()} {kind} about {about}. In {place}, {more}."


LANGUAGES = ("en", "es", "fr", "de", "ja", "hi")
MATURITIES = ("all", "7", "12", "16", "18")
NO_SEQUEL = -1


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
        sequel: (N,) index of the next part of the same franchise, or NONE.
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
    genres = normalize(rng.standard_normal((len(GENRES), world.LATENTS)))
    home = genres[np.arange(len(THEMES)) % len(genres)]
    return TasteSpace(genres, normalize(normalize(rng.standard_normal((len(THEMES), world.LATENTS))) + 0.6 * home))


def make_catalog(settings, clock: Clock, space: TasteSpace, rng: np.random.Generator) -> SimulatedCatalog:
    """Draw `settings.items` items in random order, so that an item_id reveals neither age nor franchise."""
    franchise, part = _franchises(settings.items, rng)
    genres, themes = _tags(franchise, space, rng)
    latents = _latents(genres, themes, franchise, space, rng)
    release = _release_times(franchise, part, clock, rng)
    frame = _describe(franchise, part, genres, themes, release, rng)
    quality = world.QUALITY * (
        0.8 * rng.standard_normal(franchise[-1] + 1)[franchise] + 0.6 * rng.standard_normal(len(frame))
    )
    order = rng.permutation(len(frame))
    frame = frame.iloc[order].reset_index(drop=True)
    frame.insert(0, columns.ITEM, [f"m{index:05d}" for index in range(len(frame))])
    sequel = _sequels(franchise, part)
    place = np.empty(len(frame) + 1, dtype=np.int64)  # old index -> new index; NO_SEQUEL stays
    place[order], place[NO_SEQUEL] = np.arange(len(frame)), NO_SEQUEL
    return SimulatedCatalog(frame, latents[order], quality[order], release[order], place[sequel[order]])


def _franchises(num_items: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Franchise number and part (from 1) of each item; about a third of the items have siblings."""
    sizes = rng.choice([1, 2, 3, 4, 5, 6], size=num_items, p=[0.84, 0.05, 0.05, 0.03, 0.02, 0.01])
    franchise = np.repeat(np.arange(num_items), sizes)[:num_items]
    part = np.arange(num_items) - np.searchsorted(franchise, franchise) + 1
    return franchise, part


def _sequels(franchise: np.ndarray, part: np.ndarray) -> np.ndarray:
    sequel = np.full(len(franchise), NO_SEQUEL)
    follows = np.flatnonzero(part > 1)
    sequel[follows - 1] = follows
    return sequel


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
    shared = rng.standard_normal((franchise[-1] + 1, world.LATENTS))[franchise]
    own = rng.standard_normal((len(franchise), world.LATENTS))
    return normalize(from_text + (0.6 * shared + 0.3 * own) / np.sqrt(world.LATENTS))


def _release_times(franchise, part, clock: Clock, rng: np.random.Generator) -> np.ndarray:
    """Release times, at quarters of a day. The newest part as any item, earlier parts 200 to 700 days apart."""
    days = (clock.end - clock.start) / DAY
    share_new = min(0.4, world.NEW_SHARE * days / 180)
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
    return pd.DataFrame(
        {
            columns.TITLE: name_items(franchise, part, series, rng),
            columns.GENRES: ["|".join(np.take(GENRES, np.flatnonzero(row))) for row in genres],
            columns.DESCRIPTION: describe(genres, themes, series, rng),
            columns.RELEASE_TIME: timestamps(release),
            "kind": np.where(series, "series", "film").astype(object),
            "duration_minutes": duration.round().astype(np.int64),
            "year": timestamps(release).year.astype(np.int64),
            "maturity": maturity.astype(object),
            "language": language.astype(object),
        }
    )
