"""Titles and descriptions of simulated items. N items, G genres, H themes."""

from __future__ import annotations

import numpy as np

from data.simulator import words


def name_items(franchise: np.ndarray, part: np.ndarray, series: np.ndarray, rng: np.random.Generator) -> list[str]:
    """Unique titles; later parts of a franchise bear its title and their number."""
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
    """Word lists give some hundred thousand titles; should they run low, a place is added."""
    for attempt in range(1000):
        pattern = words.PATTERNS[rng.integers(len(words.PATTERNS))]
        first, second = rng.choice(len(words.NOUNS), 2, replace=False)
        adjective = words.ADJECTIVES[rng.integers(len(words.ADJECTIVES))]
        title = pattern.format(a=adjective, n=words.NOUNS[first], m=words.NOUNS[second])
        if attempt >= 20:
            title += f" No. {rng.integers(2, 10 ** (1 + attempt // 20))}"
        if title not in taken:
            taken.add(title)
            return title
    raise AssertionError("no unused title in 1,000 attempts")


def describe(genres: np.ndarray, themes: np.ndarray, series: np.ndarray, rng: np.random.Generator) -> list[str]:
    """Two sentences that name genres (N, G) and themes (N, H) in words; tone and place carry no signal."""
    phrases = list(words.THEMES.values())
    tones = rng.choice(words.TONES, len(genres))
    places = rng.choice(words.PLACES, len(genres))
    return [
        _two_sentences(
            [words.GENRES[index] for index in np.flatnonzero(has_genres)],
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
