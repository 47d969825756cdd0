"""The simulated users: traits, tastes that follow from them in part, and how much they watch.

U users, D latents. Row U of every array of `Tastes` is the population's average, for users never simulated.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from data import columns
from data.columns import DAY, MICROSECONDS
from data.simulator import strengths
from data.simulator.catalogue import LANGUAGES, Space, unit
from data.simulator.clock import DAYPARTS, Clock, timestamps

DEVICES = ("tv", "phone", "tablet", "web")
TRAITS = {
    "age_band": (
        ("under 18", "18-24", "25-34", "35-44", "45-54", "55-64", "65+"),
        (0.07, 0.16, 0.24, 0.20, 0.15, 0.11, 0.07),
    ),
    "gender": (("female", "male", "other", "undisclosed"), (0.46, 0.45, 0.02, 0.07)),
    "country": (("US", "GB", "ES", "FR", "DE", "JP", "IN"), (0.34, 0.14, 0.12, 0.12, 0.12, 0.08, 0.08)),
    "plan": (("basic", "standard", "family", "student"), (0.35, 0.35, 0.2, 0.1)),
}
SPOKEN = {"US": "en", "GB": "en", "ES": "es", "FR": "fr", "DE": "de", "JP": "ja", "IN": "hi"}
CONSENT = 0.96
HOURS = (0.3, 0.9, 1.4, 3.0)  # Dirichlet weights of night, morning, afternoon, evening


@dataclass(frozen=True)
class Tastes:
    """What preference knows of users.

    Attributes:
        first, second: (U + 1, D); the taste at progress p is cos(turn p) first + sin(turn p) second.
        turn: (U + 1,) radians.
        mainstream, heat, maturity: (U + 1,) weight of quality, of heat, of maturity.
        language: (U + 1, number of languages) preference by language.
        device: (U + 1, DAYPARTS, devices) probability of each device.
        hours: (U + 1, DAYPARTS) share of one's sessions by time of day.
    """

    first: np.ndarray
    second: np.ndarray
    turn: np.ndarray
    mainstream: np.ndarray
    heat: np.ndarray
    maturity: np.ndarray
    language: np.ndarray
    device: np.ndarray
    hours: np.ndarray


@dataclass(frozen=True)
class Audience:
    """Users as a table, their tastes, active span (U,) in microseconds and rate (U,) of plays per day."""

    frame: pd.DataFrame
    tastes: Tastes
    joined: np.ndarray
    left: np.ndarray
    rate: np.ndarray


def make_audience(settings, clock: Clock, space: Space, rng: np.random.Generator) -> Audience:
    """`settings.users` users; two of five are there at the start, the others join all through it."""
    count = settings.users
    traits = {name: rng.choice(len(values), count, p=shares) for name, (values, shares) in TRAITS.items()}
    tastes = _tastes(traits, space, rng)
    joined, left = _spans(count, clock, rng)
    frame = pd.DataFrame({columns.USER: [f"u{index:06d}" for index in range(count)]})
    for name, (values, _) in TRAITS.items():
        frame[name] = np.array(values, dtype=object)[traits[name]]
    frame["joined"] = timestamps(joined)
    frame[columns.TRAINING_CONSENT] = rng.random(count) < CONSENT
    return Audience(frame, tastes, joined, left, rng.lognormal(0.0, 1.1, count))


def _spans(count: int, clock: Clock, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Those there at the start joined up to three years before it; a user stays two days at least."""
    period = clock.end - clock.start
    there = rng.random(count) < 0.4
    before = clock.start - rng.exponential(300 * DAY, count).clip(max=3 * 365 * DAY)
    joined = np.where(there, before, clock.start + rng.random(count) * (period - 2 * DAY)).astype(np.int64)
    stay = rng.lognormal(np.log(150 * DAY), 1.2, count).clip(2 * DAY, 20 * 365 * DAY).astype(np.int64)
    joined -= joined % MICROSECONDS
    return joined, np.minimum(np.maximum(joined, clock.start) + stay, clock.end)


def _tastes(traits: dict[str, np.ndarray], space: Space, rng: np.random.Generator) -> Tastes:
    count = len(traits["plan"])
    group = sum(rng.standard_normal((len(TRAITS[name][0]), strengths.LATENTS))[codes] for name, codes in traits.items())
    first, second = (_one_taste(group, space, rng) for _ in range(2))
    age = traits["age_band"] / (len(TRAITS["age_band"][0]) - 1)
    heat = np.exp(strengths.HEAT_SENSITIVITY * rng.standard_normal(count) + 0.5 - 0.9 * age)
    spoken = np.array([LANGUAGES.index(SPOKEN[name]) for name in TRAITS["country"][0]])[traits["country"]]
    language = strengths.LANGUAGE * (
        np.eye(len(LANGUAGES))[spoken] + 0.3 * rng.standard_normal((count, len(LANGUAGES)))
    )
    return Tastes(
        *(
            np.concatenate([known, known.mean(axis=0, keepdims=True)])
            for known in (
                first,
                second,
                rng.uniform(0, strengths.DRIFT, count),
                1 + strengths.MAINSTREAM * rng.standard_normal(count),
                heat,
                strengths.MATURITY * (2.5 * age - 0.8),
                language,
                _devices(traits["plan"], age, rng),
                rng.dirichlet(HOURS, count),
            )
        )
    )


def _one_taste(group: np.ndarray, space: Space, rng: np.random.Generator) -> np.ndarray:
    """Unit vectors: what one's groups like, a few genres and themes of one's own, and chance."""
    count = len(group)
    genres = rng.exponential(size=(count, len(space.genres))) ** 3 @ space.genres
    themes = rng.exponential(size=(count, len(space.themes))) ** 3 @ space.themes
    own = unit(unit(genres) + unit(themes) + 0.5 * unit(rng.standard_normal(group.shape)))
    return unit(strengths.DEMOGRAPHY * unit(group) + np.sqrt(1 - strengths.DEMOGRAPHY**2) * own)


def _devices(plan: np.ndarray, age: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(U, DAYPARTS, devices): evenings belong to the television, mornings and the young to the phone."""
    by_daypart = np.array([[0.6, 1.2, 0.2, 0.3], [-0.4, 1.4, 0.2, 0.6], [0.3, 0.7, 0.4, 0.6], [1.8, 0.3, 0.3, 0.2]])
    own = 1.2 * rng.standard_normal((len(plan), len(DEVICES)))
    own[:, 0] += 1.2 * age - 0.8 * (plan == TRAITS["plan"][0].index("student"))
    own[:, 1] -= 1.0 * age
    weights = np.exp(own[:, None, :] + by_daypart[:DAYPARTS])
    return weights / weights.sum(axis=2, keepdims=True)
