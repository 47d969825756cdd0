"""The law by which simulated users choose: the log preference of everybody for everything at any time.

B cases, N items, D latents, F features of an item (its latents, then what else matters), U users.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from data.simulator import strengths
from data.simulator.audience import DEVICES, Tastes
from data.simulator.catalogue import LANGUAGES, MATURITIES, NONE, Catalogue, Space, unit
from data.simulator.clock import DAYPARTS, Clock, daypart, is_weekend

LONG_SCREENS = (1.0, -1.5, -0.5, 0.0)  # taste for long items, by device


@dataclass(frozen=True)
class Preference:
    """Utilities of a choice that is one draw from their softmax over the released items not yet played.

    Attributes:
        features: (N, F) columns that a user's coefficients multiply.
        heat: (quarters, N) appeal by time, -inf before release.
        sequel: (N,) next part of the franchise, or NONE.
        occasions: (2 * DAYPARTS, D) what weekdays' and then weekends' dayparts favour.
        screens: (devices, D) what devices favour.
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
        return self.features[:, : strengths.LATENTS]

    def coefficients(self, users_B, times_B, devices_B, mood_BD) -> np.ndarray:
        """(B, F) weights of the items' features for users at these times, on these devices, in this mood."""
        tastes = self.tastes
        angle = (tastes.turn[users_B] * self.clock.progress(times_B))[:, None]
        taste = np.cos(angle) * tastes.first[users_B] + np.sin(angle) * tastes.second[users_B]
        occasion = self.occasions[is_weekend(times_B) * DAYPARTS + daypart(times_B)]
        latents = strengths.TASTE * taste + occasion + self.screens[devices_B] + strengths.MOOD * mood_BD
        length = strengths.SHORT_ON_PHONE * np.array(LONG_SCREENS)[devices_B]
        ones = np.ones(len(users_B))
        others = np.stack([tastes.mainstream[users_B], tastes.maturity[users_B], length, ones], axis=1)
        return np.concatenate([latents, others, tastes.language[users_B]], axis=1)

    def utilities(self, coefficients_BF, users_B, times_B) -> np.ndarray:
        """(B, N) float64, before anything that the items played so far change; -inf where not yet released.

        Double precision keeps the draws the same on processors that round differently in the last bit.
        """
        utilities_BN = coefficients_BF @ self.features.T
        utilities_BN += self.tastes.heat[users_B][:, None] * self.heat[self.clock.quarter(times_B)]
        return utilities_BN


def make_preference(
    clock: Clock,
    space: Space,
    catalogue: Catalogue,
    tastes: Tastes,
    heat: np.ndarray,
    rng: np.random.Generator,
) -> Preference:
    """Put items and users together; draws what times of the day and screens favour."""
    occasions = strengths.DAYPART * unit(rng.standard_normal((2 * DAYPARTS, strengths.LATENTS)))
    screens = strengths.DEVICE * unit(rng.standard_normal((len(DEVICES), strengths.LATENTS)))
    return Preference(clock, tastes, _features(catalogue), heat, catalogue.sequel, occasions, screens)


def _features(catalogue: Catalogue) -> np.ndarray:
    frame = catalogue.frame
    maturity = np.array([MATURITIES.index(level) for level in frame["maturity"]]) / (len(MATURITIES) - 1) - 0.5
    length = np.log(frame["duration_minutes"].to_numpy() / 80.0)
    is_sequel = np.isin(np.arange(len(frame)), catalogue.sequel[catalogue.sequel != NONE])
    language = np.array([LANGUAGES.index(name) for name in frame["language"]])
    others = np.stack([catalogue.quality, maturity, length, -strengths.SEQUEL_WITHOUT_START * is_sequel], axis=1)
    return np.concatenate([catalogue.latents, others, np.eye(len(LANGUAGES))[language]], axis=1)
