"""The simulated users: traits, tastes that depend on them in part, and the preferences that decide each play.

Legend: U users, N items, D latents, F item features, B choices. Row U of every array of `Tastes` is the average user,
for users that were never simulated.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from config.params import Simulate
from data import columns
from data.columns import DAY, MICROSECONDS
from data.simulator import world
from data.simulator.world import DAYPARTS, LANGUAGES, NO_SEQUEL, Clock, SimulatedCatalog, TasteSpace, normalize
from data.tables import timestamps

DEVICES = ("tv", "phone", "tablet", "web")
AGES = ("under 18", "18-24", "25-34", "35-44", "45-54", "55-64", "65+")
TRAITS = {  # column -> values and their shares
    "age_band": (AGES, (0.07, 0.16, 0.24, 0.20, 0.15, 0.11, 0.07)),
    "gender": (("female", "male", "other", "undisclosed"), (0.46, 0.45, 0.02, 0.07)),
    "country": (("US", "GB", "ES", "FR", "DE", "JP", "IN"), (0.34, 0.14, 0.12, 0.12, 0.12, 0.08, 0.08)),
    "plan": (("basic", "standard", "family", "student"), (0.35, 0.35, 0.2, 0.1)),
}
SPOKEN = {"US": "en", "GB": "en", "ES": "es", "FR": "fr", "DE": "de", "JP": "ja", "IN": "hi"}
CONSENT = 0.96
HOURS = (0.3, 0.9, 1.4, 3.0)  # Dirichlet weights of night, morning, afternoon, evening


@dataclass(frozen=True)
class Tastes:
    """The parameters of users' preferences.

    Attributes:
        first, second: (U + 1, D); at progress p of the period the taste is cos(turn p) first + sin(turn p) second.
        turn: (U + 1,) radians.
        mainstream, heat, maturity: (U + 1,) weights of quality, heat and maturity.
        language: (U + 1, number of languages) preference by language.
        device: (U + 1, DAYPARTS, devices) probability of each device.
        hours: (U + 1, DAYPARTS) share of the user's sessions by time of day.
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
    """Users as a table, their tastes, active period (U,) in microseconds and rate (U,) of plays per day."""

    frame: pd.DataFrame
    tastes: Tastes
    joined: np.ndarray
    left: np.ndarray
    rate: np.ndarray


def make_audience(settings: Simulate, clock: Clock, space: TasteSpace, rng: np.random.Generator) -> Audience:
    """Draw `settings.users` users. Two of five are present at the start, the others join during the period."""
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
    """When users join and leave. Two of five joined up to three years before the start; all stay two days or more."""
    period = clock.end - clock.start
    present = rng.random(count) < 0.4
    before = clock.start - rng.exponential(300 * DAY, count).clip(max=3 * 365 * DAY)
    joined = np.where(present, before, clock.start + rng.random(count) * (period - 2 * DAY)).astype(np.int64)
    stay = rng.lognormal(np.log(150 * DAY), 1.2, count).clip(2 * DAY, 20 * 365 * DAY).astype(np.int64)
    joined -= joined % MICROSECONDS
    return joined, np.minimum(np.maximum(joined, clock.start) + stay, clock.end)


def _tastes(traits: dict[str, np.ndarray], space: TasteSpace, rng: np.random.Generator) -> Tastes:
    count = len(traits["plan"])
    group = sum(rng.standard_normal((len(TRAITS[name][0]), world.LATENTS))[codes] for name, codes in traits.items())
    first, second = (_one_taste(group, space, rng) for _ in range(2))
    age = traits["age_band"] / (len(AGES) - 1)
    heat = np.exp(world.HEAT_SENSITIVITY * rng.standard_normal(count) + 0.5 - 0.9 * age)
    spoken = np.array([LANGUAGES.index(SPOKEN[name]) for name in TRAITS["country"][0]])[traits["country"]]
    language = world.LANGUAGE * (np.eye(len(LANGUAGES))[spoken] + 0.3 * rng.standard_normal((count, len(LANGUAGES))))
    parameters = (
        first,
        second,
        rng.uniform(0, world.DRIFT, count),
        1 + world.MAINSTREAM * rng.standard_normal(count),
        heat,
        world.MATURITY * (2.5 * age - 0.8),
        language,
        _devices(traits["plan"], age, rng),
        rng.dirichlet(HOURS, count),
    )
    return Tastes(*(np.concatenate([values, values.mean(axis=0, keepdims=True)]) for values in parameters))


def _one_taste(group: np.ndarray, space: TasteSpace, rng: np.random.Generator) -> np.ndarray:
    """(U, D) unit vectors: the taste of the user's groups, a few own genres and themes, and chance."""
    count = len(group)
    genres = rng.exponential(size=(count, len(space.genres))) ** 3 @ space.genres
    themes = rng.exponential(size=(count, len(space.themes))) ** 3 @ space.themes
    own = normalize(normalize(genres) + normalize(themes) + 0.5 * normalize(rng.standard_normal(group.shape)))
    return normalize(world.DEMOGRAPHY * normalize(group) + np.sqrt(1 - world.DEMOGRAPHY**2) * own)


def _devices(plan: np.ndarray, age: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(U, DAYPARTS, devices) probabilities: televisions in the evening, phones in the morning and for the young."""
    by_daypart = np.array([[0.6, 1.2, 0.2, 0.3], [-0.4, 1.4, 0.2, 0.6], [0.3, 0.7, 0.4, 0.6], [1.8, 0.3, 0.3, 0.2]])
    own = 1.2 * rng.standard_normal((len(plan), len(DEVICES)))
    own[:, 0] += 1.2 * age - 0.8 * (plan == TRAITS["plan"][0].index("student"))
    own[:, 1] -= 1.0 * age
    weights = np.exp(own[:, None, :] + by_daypart[:DAYPARTS])
    return weights / weights.sum(axis=2, keepdims=True)


LONG_SCREENS = (1.0, -1.5, -0.5, 0.0)  # taste for long items, by device


@dataclass(frozen=True)
class Preference:
    """The utilities of items. A play is one draw from their softmax over the released items not yet played.

    Attributes:
        features: (N, F) item features, which a user's coefficients multiply.
        heat: (quarters, N) appeal by time, -inf before release.
        sequel: (N,) next part of the franchise, or NO_SEQUEL.
        occasions: (2 * DAYPARTS, D) taste by time of day, on weekdays and then on weekends.
        screens: (devices, D) taste by device.
    """

    clock: Clock
    tastes: Tastes
    features: np.ndarray
    heat: np.ndarray
    sequel: np.ndarray
    occasions: np.ndarray
    screens: np.ndarray

    @property
    def latents(self) -> np.ndarray:
        return self.features[:, : world.LATENTS]

    def coefficients(self, users_B, times_B, devices_B, mood_BD) -> np.ndarray:
        """(B, F) weights of the item features for users at these times, on these devices, in this mood."""
        tastes = self.tastes
        angle = (tastes.turn[users_B] * self.clock.progress(times_B))[:, None]
        taste = np.cos(angle) * tastes.first[users_B] + np.sin(angle) * tastes.second[users_B]
        occasion = self.occasions[world.is_weekend(times_B) * DAYPARTS + world.daypart(times_B)]
        latents = world.TASTE * taste + occasion + self.screens[devices_B] + world.MOOD * mood_BD
        length = world.SHORT_ON_PHONE * np.array(LONG_SCREENS)[devices_B]
        ones = np.ones(len(users_B))
        others = np.stack([tastes.mainstream[users_B], tastes.maturity[users_B], length, ones], axis=1)
        return np.concatenate([latents, others, tastes.language[users_B]], axis=1)

    def utilities(self, coefficients_BF, users_B, times_B) -> np.ndarray:
        """(B, N) float64, before the effect of earlier plays; -inf for items not yet released.

        In double precision, so that draws are the same on processors that round the last bit differently.
        """
        utilities_BN = coefficients_BF @ self.features.T
        utilities_BN += self.tastes.heat[users_B][:, None] * self.heat[self.clock.quarter(times_B)]
        return utilities_BN


def make_preference(clock: Clock, catalog: SimulatedCatalog, tastes: Tastes, heat, rng) -> Preference:
    """Combine items and users, and draw the tastes by time of day and device."""
    occasions = world.DAYPART * normalize(rng.standard_normal((2 * DAYPARTS, world.LATENTS)))
    screens = world.DEVICE * normalize(rng.standard_normal((len(DEVICES), world.LATENTS)))
    return Preference(clock, tastes, _features(catalog), heat, catalog.sequel, occasions, screens)


def _features(catalog: SimulatedCatalog) -> np.ndarray:
    frame = catalog.frame
    maturity = (
        np.array([world.MATURITIES.index(level) for level in frame["maturity"]]) / (len(world.MATURITIES) - 1) - 0.5
    )
    length = np.log(frame["duration_minutes"].to_numpy() / 80.0)
    is_sequel = np.isin(np.arange(len(frame)), catalog.sequel[catalog.sequel != NO_SEQUEL])
    language = np.array([LANGUAGES.index(name) for name in frame["language"]])
    others = np.stack([catalog.quality, maturity, length, -world.SEQUEL_WITHOUT_START * is_sequel], axis=1)
    return np.concatenate([catalog.latents, others, np.eye(len(LANGUAGES))[language]], axis=1)
